"""How requests follow each other on one connection, on virtual time."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import memory_stream_pair

from plexus_registry.rpc.fairness import Fairness, Share
from plexus_registry.server.access_policy import Refusal
from plexus_registry.server.handshake import (
    HEAD_SECONDS,
    RequestLoop,
    SlowAnswer,
    answer_requests,
)
from plexus_registry.server.http import HttpRequest, HttpResponse

POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"


async def test_a_body_that_takes_too_long_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_stream_pair()
    share = Share(Fairness())

    async def never(_body: bytes) -> HttpResponse:
        raise AssertionError

    def decide(request: HttpRequest | Refusal) -> HttpResponse | SlowAnswer:
        if isinstance(request, Refusal):
            return HttpResponse(status=request.status, body=request.counted_as)
        return SlowAnswer(make=never, share=share, body_bytes=10)

    await theirs.send_all(POST + b"{")
    loop = RequestLoop(trio.Event(), trio.CancelScope())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_requests, ours, loop, decide)
        answer = bytes(await theirs.receive_some())
        await theirs.aclose()
    assert answer.startswith(b"HTTP/1.1 408")
    assert answer.endswith(b"body_seconds")


@pytest.mark.parametrize("others_wait", [False, True])
async def test_a_long_answer_is_given_up_if_it_is_not_read(
    autojump_clock: trio.testing.MockClock, *, others_wait: bool
) -> None:
    """Without others, a peer may read slowly; what it does not read is released in any case."""
    fairness = Fairness(max_unread=200_000)
    share = Share(fairness)
    ours, theirs = memory_stream_pair()
    pieces: list[int] = []
    real = ours.send_all

    async def send_slowly(data: bytes) -> None:
        pieces.append(len(data))
        await trio.sleep(HEAD_SECONDS - 1)
        await real(data)

    ours.send_all = send_slowly  # type: ignore[method-assign,assignment]  # a slow peer

    async def make(_body: bytes) -> HttpResponse:
        text = "x" * 300_000
        share.hold(text)
        return HttpResponse(status=200, body=text)

    loop = RequestLoop(trio.Event(), trio.CancelScope())
    await theirs.send_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    async with trio.open_nursery() as nursery:
        if others_wait:

            async def wait() -> None:
                await trio.sleep(1)
                await Share(fairness).wait_for_room()

            nursery.start_soon(wait)
        decide = partial(lambda answer, _request: answer, SlowAnswer(make=make, share=share))
        await answer_requests(ours, loop, decide)
        assert fairness.unread == 0
    assert len([each for each in pieces if each]) == (2 if others_wait else 5)
