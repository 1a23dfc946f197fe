"""How many may be in, in all and from one address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.server.connection_limits import ConnectionLimits, group_of

ADDRESSES = ["127.0.0.1", "::1", "10.0.0.1", "10.0.0.2", "2001:db8::1", "::ffff:10.0.0.1"]


@given(moves=st.lists(st.tuples(st.sampled_from(ADDRESSES), st.booleans()), max_size=60))
def test_it_counts_as_a_list_would(moves: list[tuple[str, bool]]) -> None:
    connection_limits = ConnectionLimits(most=7, most_from_one=2)
    inside: list[str] = []
    for address, enters in moves:
        if enters:
            group = group_of(address)
            peers = sum(group_of(each) == group for each in inside)
            word = "connections" if len(inside) >= 7 else ""
            if not word and group is not None and peers >= 2:
                word = "connections_per_address"
            refusal = connection_limits.enter(address)
            assert (refusal.word if refusal else "") == word
            if refusal is None:
                inside.append(address)
            else:
                assert refusal.status == 503
                assert "--max-connections" in refusal.log
        elif address in inside:
            inside.remove(address)
            connection_limits.leave(address)
        assert connection_limits.count == len(inside)


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("127.0.0.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_whom_a_connection_counts_for(address: str, group: str | None) -> None:
    assert group_of(address) == group
