"""The numbers of streams: none comes again, and every client can read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rpc.streams import StreamEncoder
from plexus_registry.rpc.subscriptions import (
    FIRST_NUMBER_BITS,
    FiniteStream,
    Subscriptions,
    WatchStream,
)
from plexus_registry.rules.change_log import WatchCursor
from plexus_registry.rules.errors import SubscriptionLimitError
from plexus_registry.rules.methods import Watch as WatchCommand

ENCODER = StreamEncoder("registry.watch", "registry.event", "0" * 16, ())


def begin(subscriptions: Subscriptions, live: FiniteStream | WatchStream) -> int:
    number = subscriptions.next_number()
    subscriptions.begin(number, live)
    return number


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
                given_out.append(begin(subscriptions, FiniteStream(ENCODER, ["{}"])))
            case "watch":
                watch = WatchStream(ENCODER, WatchCursor(WatchCommand()))
                given_out.append(begin(subscriptions, watch))
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
    assert begin(subscriptions, FiniteStream(ENCODER, [])) == 8
    with pytest.raises(SubscriptionLimitError):
        begin(subscriptions, FiniteStream(ENCODER, []))
    subscriptions.flush()
    assert begin(subscriptions, FiniteStream(ENCODER, [])) == 9
