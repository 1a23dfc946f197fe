"""Accepting, which pauses if the system has no room, and the limits of connections."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from plexus_registry.concurrency import (
    LINES_IN_WINDOW,
    MOST_ADDRESSES,
    WINDOW_SECONDS,
    LogThrottle,
)
from plexus_registry.server.listener import (
    PAUSE_SECONDS,
    ConnectionLimits,
    accept_forever,
    group_of,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """Gives what it is told to, an error or a stream, and then nothing more."""

    def __init__(self, *results: int) -> None:
        self.results = list(results)
        self.asked: list[float] = []
        self.is_closed = False

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        if not self.results:
            await trio.sleep_forever()
        number = self.results.pop(0)
        if number:
            raise OSError(number, os.strerror(number))
        return memory_stream_pair()[0]

    async def aclose(self) -> None:
        self.is_closed = True
        await trio.lowlevel.checkpoint()


async def test_without_room_it_pauses_and_goes_on(autojump_clock: MockClock) -> None:
    listener = Listener(0, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, 0)
    accepted: list[trio.abc.Stream] = []
    said: list[tuple[str, str]] = []
    with trio.move_on_after(10):
        await accept_forever(listener, accepted.append, lambda *each: said.append(each))
    assert len(accepted) == 2
    assert listener.asked[-1] == pytest.approx(4 * PAUSE_SECONDS)
    assert {kind for kind, _ in said} == {"files"}
    assert all("ulimit -n" in text for _, text in said)
    assert listener.is_closed


async def test_any_other_error_is_not_kept_quiet(autojump_clock: MockClock) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        await accept_forever(Listener(errno.EBADF), lambda _: None, lambda *_: None)


async def test_complaints_are_bounded_by_kind_and_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log_throttle = LogThrottle()
    for number in range(LINES_IN_WINDOW + 5):
        log_throttle.log("a", str(number))
    log_throttle.log("b", "b0")
    assert len(caplog.messages) == LINES_IN_WINDOW + 1
    await trio.sleep(WINDOW_SECONDS)
    log_throttle.log("a", "again")
    assert caplog.messages[-2:] == ["5 more like the next were not logged", "again"]


async def test_an_address_is_logged_once_a_minute_and_only_so_many_are_known(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log_throttle = LogThrottle()
    for _ in range(3):
        log_throttle.log_address("kind", "10.0.0.1", "one")
        log_throttle.log_address("kind", "10.0.0.2", "two")
    assert caplog.messages == ["one", "two"]
    for number in range(3 * MOST_ADDRESSES):
        log_throttle.log_address("kind", f"address {number}", "flood")
    assert len(log_throttle._addresses) == MOST_ADDRESSES
    assert len(caplog.messages) == LINES_IN_WINDOW
    await trio.sleep(WINDOW_SECONDS)
    log_throttle.log_address("kind", "10.0.0.1", "one again")
    assert caplog.messages[-1] == "one again"
    log_throttle.log_address("kind", "10.0.0.3", "three")
    assert caplog.messages[-1] == "three"


ADDRESSES = ["127.0.0.1", "::1", "10.0.0.1", "10.0.0.2", "2001:db8::1", "::ffff:10.0.0.1"]


@given(moves=st.lists(st.tuples(st.sampled_from(ADDRESSES), st.booleans()), max_size=60))
def test_connections_are_counted_as_a_list_would(moves: list[tuple[str, bool]]) -> None:
    connection_limits = ConnectionLimits(most=7, most_from_one=2)
    inside: list[str] = []
    for address, enters in moves:
        if enters:
            group = group_of(address)
            peers = sum(group_of(each) == group for each in inside)
            counted_as = "connections" if len(inside) >= 7 else ""
            if not counted_as and group is not None and peers >= 2:
                counted_as = "connections_per_address"
            refusal = connection_limits.enter(address)
            assert (refusal.counted_as if refusal else "") == counted_as
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
def test_the_group_that_a_connection_is_counted_in(address: str, group: str | None) -> None:
    assert group_of(address) == group
