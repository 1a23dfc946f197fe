"""The numbers of streams: none comes again, and every client can read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rpc.streams import (
    FIRST_NUMBER_BITS,
    FiniteStream,
    Stream,
    Subscriptions,
    WatchStream,
)
from plexus_registry.rules.change_log import WatchCursor
from plexus_registry.rules.errors import SubscriptionLimitError
from plexus_registry.rules.methods import Watch as WatchCommand

STREAM = Stream("registry.watch", "registry.event", WatchCommand())


@given(
    numbers_after=st.integers(0, 2**FIRST_NUMBER_BITS - 1),
    steps=st.lists(st.sampled_from(["finite", "watch", "flush", "sent", "unsubscribe"])),
)
def test_numbers_count_on_and_none_comes_again(numbers_after: int, steps: list[str]) -> None:
    subscriptions = Subscriptions(max_subscriptions=1_000, numbers_after=numbers_after)
    given_out: list[int] = []
    for step in steps:
        match step:
            case "finite":
                given_out.append(subscriptions.begin(FiniteStream(STREAM, ["{}"])))
            case "watch":
                given_out.append(
                    subscriptions.begin(WatchStream(STREAM, WatchCursor(WatchCommand())))
                )
            case "flush":
                subscriptions.flush()
            case "sent":
                subscriptions.note_sent()
            case "unsubscribe":
                subscriptions.unsubscribe("registry.watch", given_out[-1] if given_out else None)
    assert given_out == [numbers_after + 1 + place for place in range(len(given_out))]
    assert all(number < 2**53 for number in given_out)


def test_a_refused_stream_uses_no_number() -> None:
    subscriptions = Subscriptions(max_subscriptions=1, numbers_after=7)
    assert subscriptions.begin(FiniteStream(STREAM, [])) == 8
    with pytest.raises(SubscriptionLimitError):
        subscriptions.begin(FiniteStream(STREAM, []))
    subscriptions.flush()
    assert subscriptions.begin(FiniteStream(STREAM, [])) == 9
