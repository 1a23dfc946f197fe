"""Which addresses may be probed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.health.network import parse_networks, refusal
from plexus_registry.rules.errors import ConfigError


@pytest.mark.parametrize(
    ("networks", "address", "is_probed"),
    [
        ("", "127.0.0.1", True),
        ("", "2001:db8::1", True),
        ("", "169.254.169.254", False),
        ("", "fe80::1", False),
        ("", "fe80::1%eth0", False),
        ("", "::ffff:169.254.169.254", False),
        ("", "64:ff9b::169.254.169.254", False),
        ("", "64:ff9b:1::169.254.169.254", False),
        ("", "2002:a9fe:a9fe::1", False),
        ("", "::169.254.169.254", False),
        ("", "::ffff:0:169.254.169.254", False),
        ("64:ff9b::/96", "64:ff9b::a9fe:1%eth0", False),
        ("", "64:ff9b::10.1.2.3", True),
        ("", "2002:0a01:0203::a9fe:a9fe", True),
        ("", "::1", True),
        ("", "2001:db8::a9fe:a9fe", True),
        ("169.254.0.0/16, fe80::/10", "169.254.169.254", False),
        ("10.0.0.0/8,fd00::/8", "10.1.2.3", True),
        ("10.0.0.0/8,fd00::/8", "fd00::1", True),
        ("10.0.0.0/8,fd00::/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8,fd00::/8", "11.1.2.3", False),
        ("10.0.0.0/8,", "::1", False),
    ],
)
def test_what_is_probed(networks: str, address: str, *, is_probed: bool) -> None:
    assert (refusal(address, parse_networks(networks)) is None) == is_probed


PREFIXES = [
    (0xFFFF << 32, 0),
    (0, 0),
    (0xFFFF << 48, 0),
    (0x64FF9B << 96, 0),
    (0x64FF9B0001 << 80, 0),
    (0x2002 << 112, 80),
]


@given(prefix=st.sampled_from(PREFIXES), low=st.integers(0, 2**16 - 1), rest=st.integers(0))
def test_an_address_that_embeds_a_link_local_one_is_refused(
    prefix: tuple[int, int], low: int, rest: int
) -> None:
    start, shift = prefix
    embedded = IPv4Address((169 << 24) + (254 << 16) + low)
    address = IPv6Address(start | int(embedded) << shift | rest % (1 << shift))
    reason = refusal(str(address), parse_networks(""))
    assert reason is not None
    assert str(embedded) in reason
    assert "link-local" in reason


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "hub2", "10.0.0.0/8;::/0"])
def test_a_text_that_is_not_a_network_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--probe-networks"):
        parse_networks(text)
