"""Any bytes in any pieces: always an answer or a close in time, and the next client is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.harness import shared_registry, with_prelude
from tests.e2e.raw import HEAD, TEXT, frame, wire_to

if TYPE_CHECKING:
    from collections.abc import Iterator

HASTY = with_prelude(
    "import plexus_registry.server.handshake as d; d.HEAD_SECONDS = d.BODY_SECONDS = 0.2"
)
LIMIT_SECONDS = 20

PIECES = [
    *(b"GET / HTTP/1.1\r\n", b"POST /healthz HTTP/1.0\r\n", b"Host: localhost\r\n", b"\r\n", b"\n"),
    *(b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"Sec-WebSocket-Version: 13\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"POST / HTTP/1.1\r\n", b"Content-Type: application/json\r\n", b'{"jsonrpc":"2.0"}'),
    *(b"GET /backends?active=", b"/metrics HTTP/1.1\r\n", b"Content-Length: 300\r\n"),
    *(b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"A" * 20_000),
    *(HEAD, HEAD[:70], HEAD[70:], frame(TEXT, b"{}"), frame(TEXT, b"[" * 200), frame(9, b"p")),
    *(frame(8, b""), frame(3, b"?"), frame(TEXT, b"x", masked=False)),
]
pieces = st.lists(
    st.one_of(st.binary(min_size=1, max_size=60), st.sampled_from(PIECES)), max_size=8
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    with shared_registry(folder, "--no-auto-register", command=HASTY) as url:
        yield int(url.rpartition(":")[2])


async def throw(port: int, sent: list[bytes], *, is_complete: bool) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with wire_to(port) as wire:
            try:
                for piece in sent:
                    await wire.send(piece)
                    await trio.lowlevel.checkpoint()
                if is_complete:
                    await wire.stream.send_eof()
                await wire.stream.receive_some()
            except trio.BrokenResourceError:
                pass  # closed before everything was sent
        async with wire_to(port) as next_client:
            await next_client.send(HEAD + frame(TEXT, b'{"jsonrpc":"2.0","id":1,"method":"x"}'))
            assert (await next_client.reply()).status == 101
            assert b"-32601" in await next_client.stream.receive_some()


@pytest.mark.slow
def test_whatever_comes_ends_in_time_and_harms_nobody(port: int) -> None:
    @given(sent=pieces, is_complete=st.booleans())
    def holds(sent: list[bytes], is_complete: bool) -> None:
        async def run() -> None:
            await throw(port, sent, is_complete=is_complete)

        trio.run(run)

    holds()
