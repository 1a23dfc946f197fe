"""What connections leave behind: nothing that only the garbage collector would free."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from plexus_registry import app
from plexus_registry.app import serve
from plexus_registry.settings import Settings
from tests.e2e.harness import running_registry, with_prelude
from tests.e2e.raw import CLOSE, HEAD, TEXT, WebSocket, frame, wire_to
from tests.fakes import opened

if TYPE_CHECKING:
    from pathlib import Path


def request(method: str, **params: object) -> bytes:
    asked = {"jsonrpc": "2.0", "id": 1, "method": f"registry.{method}", "params": params}
    return msgspec.json.encode(asked)


TEXTS = (
    b"[" + request("delete", name="absent") + b"]",
    request("delete", name="absent").replace(b"registry.", b"registry_"),
    request("register", name="a", host="h", port=1),
    request("get", name="a"),
    request("deregister", name="a"),
    request("ping", name="a"),
    request("get", name="absent"),
    request("delete", name="absent"),
    request("watch"),
    request("nonsense"),
    b"no JSON",
    b"[" + b",".join([request("list")] * 50) + b"]",
)


async def visit(wire: WebSocket, *, says_goodbye: bool) -> None:
    """Ask for everything, and leave."""
    await wire.open_websocket()
    for text in TEXTS:
        await wire.send(frame(TEXT, text))
        await wire.stream.receive_some()
    if says_goodbye:
        await wire.send(frame(CLOSE, b"\x03\xe8"))
        await wire.read_to_the_end()


async def come_and_go(port: int) -> None:
    for says_goodbye in (True, False):
        async with wire_to(port) as wire:
            await visit(wire, says_goodbye=says_goodbye)
    async with wire_to(port) as wire:
        assert (await wire.ask("/healthz")).status == 200
    async with wire_to(port) as wire:
        await wire.send(HEAD[:30])


async def test_connections_leave_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    settings = Settings(port=0)
    with trio.fail_after(30):
        async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
            url: str = await nursery.start(partial(serve, registry, settings))
            port = int(url.rpartition(":")[2])
            await come_and_go(port)  # what is made once
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for _ in range(5):
                    await come_and_go(port)
                gc.collect()
                left = [*map(repr, gc.garbage)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert left == []
            nursery.cancel_scope.cancel()


async def test_full_collections_are_rare(tmp_path: Path) -> None:
    shown = "print(gc.get_threshold(), gc.get_freeze_count() > 0, file=sys.stderr)"
    at_exit = f"import atexit, gc, sys; atexit.register(lambda: {shown})"
    with trio.fail_after(30):
        async with running_registry(tmp_path, command=with_prelude(at_exit)) as server:
            assert await server.stop() == 0
        assert f"{app.FULL_COLLECTION_THRESHOLD}) True" in server.log
