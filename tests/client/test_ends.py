"""How blocks of the client end: whatever goes on around them, the error of the block is itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry import RegistryUnavailableError, announce, connect
from tests.client.network import URL, Network, install, serving
from tests.client.scripted import scripted

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from trio.testing import MockClock

BLOCKS: dict[str, Callable[[], AbstractAsyncContextManager[object]]] = {
    "connect": partial(connect, URL),
    "announce": partial(announce, URL, name="svc", host="h", port=9),
}
ERRORS = (
    ValueError("of the block"),
    KeyboardInterrupt(),
    ExceptionGroup("of the block", [ValueError(), KeyError()]),
)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return install(monkeypatch)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_the_error_of_the_block_comes_out_as_it_is(
    tmp_path: Path,
    network: Network,
    autojump_clock: MockClock,
    kind: str,
    error: BaseException,
    *,
    is_cancelled: bool,
) -> None:
    caught: list[BaseException] = []
    async with serving(tmp_path):
        with trio.CancelScope() as scope:
            try:
                async with BLOCKS[kind]():
                    if is_cancelled:
                        scope.cancel()
                    raise error
            except type(error) as same:
                caught.append(same)
    if isinstance(error, ExceptionGroup):  # Trio makes a copy of a group
        assert [each.args for each in caught] == [error.args]
    else:
        assert caught == [error]


@pytest.mark.parametrize("kind", BLOCKS)
async def test_a_cancellation_comes_out_bare(
    tmp_path: Path, network: Network, autojump_clock: MockClock, kind: str
) -> None:
    seen: list[BaseException] = []
    async with serving(tmp_path):
        with trio.CancelScope() as scope:
            try:
                async with BLOCKS[kind]():
                    scope.cancel()
                    await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                seen.append(cancelled)
                raise
    assert len(seen) == 1
    assert scope.cancelled_caught


@pytest.mark.parametrize("token", ["a\r\nX: y", "é"])
@pytest.mark.parametrize("kind", BLOCKS)
async def test_a_token_that_is_no_header_is_refused_before_anybody_is_asked(
    network: Network, autojump_clock: MockClock, kind: str, token: str
) -> None:
    """An announcement would end its service later, at the first registry that it reaches."""
    block = BLOCKS[kind]
    assert isinstance(block, partial)
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        async with block(token=token):
            raise AssertionError
    assert token not in str(caught.value)
    assert network.dialled == []


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["sending", "receiving"])
async def test_calls_over_a_connection_that_is_cut_anywhere_have_an_answer_or_none(
    tmp_path: Path, network: Network, autojump_clock: MockClock, direction: str
) -> None:
    async def use() -> list[str]:
        async with connect(URL) as client:
            await client.register("svc", "h", 1)
            return [backend.name for backend in await client.list()]

    async with serving(tmp_path):
        whole = await use()
        assert network.last is not None
        size = network.last.sent if direction == "sending" else network.last.received
        cuts, failures = range(0, size - 1, 3), 0
        for at in cuts:
            setattr(network, f"cut_{direction}_at", at)
            try:
                assert await use() == whole
            except RegistryUnavailableError:
                failures += 1
    assert failures > len(cuts) * 0.9


async def test_what_a_hostile_peer_nests_too_deep_is_no_answer() -> None:
    deep = "[" * 200_000 + "]" * 200_000
    async with scripted() as (client, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(RegistryUnavailableError, match="what the peer sends makes no"):
                await client.call("registry.get", {"name": "hub"})

        nursery.start_soon(ask)
        request = await peer.receive()
        await peer.send(f'{{"jsonrpc":"2.0","id":{request["id"]},"result":{deep}}}')
        await client.wait_lost()
