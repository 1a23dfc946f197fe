"""`trio-registry watch`, against a scripted registry and, where it can, the real one."""

from __future__ import annotations

import json
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
)

from tests.cli.running import Lines, run, running, succeed
from tests.e2e.harness import running_registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

BACKEND = {
    "id": "i",
    "name": "hub2",
    "host": "h",
    "port": 1,
    "protocol": "ws",
    "source": "manual",
    "is_active": True,
    "registered_at": 1,
    "created_at": 1,
    "updated_at": 1,
}
INACTIVE = {**BACKEND, "is_active": False}
EVENTS: list[dict[str, object]] = [
    {"type": "compacted", "revision": 3},
    {"type": "snapshot", "revision": 3, "backends": [BACKEND]},
    {"type": "backend_stale", "revision": 4, "backend": INACTIVE},
    {"type": "backend_active", "revision": 5, "backend": BACKEND},
    {"type": "backend_updated", "revision": 6, "backend": BACKEND},
    {"type": "backend_deleted", "revision": 7, "name": "a\x1b[2J"},
    {"type": "backend_registered", "revision": 8, "backend": BACKEND},
    {"type": "reloaded", "revision": 9, "count": 2, "added": ["a", "b"], "removed": ["c"]},
]


@asynccontextmanager
async def scripted(
    events: Sequence[dict[str, object]], asked: list[object] | None = None
) -> AsyncIterator[str]:
    """A registry that answers each watch with events, and then hangs up."""

    async def serve_connection(request: WebSocketRequest) -> None:
        ws = await request.accept()
        call = json.loads(await ws.get_message())
        if asked is not None:
            asked.append((call["method"], call["params"]))
        await ws.send_message(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": 5}))
        with suppress(ConnectionClosed):
            for event in events:
                await _send_event(ws, event)
        await ws.aclose(1001, "restarting")

    async with trio.open_nursery() as nursery:
        ready = await nursery.start(serve_websocket, serve_connection, "127.0.0.1", 0, None)
        yield f"ws://127.0.0.1:{ready.port}"
        nursery.cancel_scope.cancel()


async def _send_event(ws: WebSocketConnection, event: dict[str, object]) -> None:
    params = {"subscription": 5, "result": event}
    note = {"jsonrpc": "2.0", "method": "registry.event", "params": params}
    await ws.send_message(json.dumps(note))


async def test_people_read_a_table_and_then_a_line_for_each_change() -> None:
    async with scripted(EVENTS) as url:
        done = await run(url, "watch")
    assert "\x1b" not in done.out
    assert done.lines[1].split() == [
        *("NAME", "URL", "STATE", "SINCE", "LATENCY", "SEEN", "SOURCE", "DESCRIPTION"),
    ]
    assert done.lines[2].split()[:3] == ["hub2", "ws://h:1", "active"]
    assert [done.lines[0], *done.lines[3:]] == [
        "Some changes are no longer known. What there is now:",
        "",
        "This is revision 3; the changes follow.",
        "     4  inactive     hub2  ws://h:1  inactive",
        "     5  active       hub2  ws://h:1",
        "     6  updated      hub2  ws://h:1",
        r"     7  deleted      a\x1b[2J",
        "     8  registered   hub2  ws://h:1",
        "     9  config read  added a, b; removed c",
    ]
    assert done.status == 3
    assert done.err == (
        "Error: the connection was closed with code 1001: restarting; go on with --since 9\n"
    )


async def test_programs_read_one_line_for_each_event() -> None:
    async with scripted(EVENTS) as url:
        done = await run(url, "watch", "--json")
    events = [json.loads(line) for line in done.lines]
    assert [event["type"] for event in events] == [event["type"] for event in EVENTS]
    assert [event["revision"] for event in events] == [3, 3, 4, 5, 6, 7, 8, 9]
    assert events[2]["backend"] == INACTIVE
    assert all(line.isprintable() for line in done.lines)


async def test_what_is_to_be_followed_is_asked_of_the_registry() -> None:
    asked: list[object] = []
    async with scripted([], asked) as url:
        done = await run(url, "watch", "--since=7", "--name=a", "--namespace=n")
        assert done.failed(3).endswith("; go on with --since 7")
        done = await run(url, "watch")
        assert "--since" not in done.failed(3)
    assert asked == [
        ("registry.watch", {"since": 7, "name": "a", "namespace": "n"}),
        ("registry.watch", {}),
    ]


async def test_a_watch_that_was_cut_off_says_why_and_how_to_go_on() -> None:
    events = [
        {"type": "snapshot", "revision": 3, "backends": []},
        {"type": "error", "message": "too slow", "code": "too_slow", "revision": 3},
    ]
    async with scripted(events) as url:
        done = await run(url, "watch")
    assert done.lines[0] == "No backends."
    assert (done.status, done.err) == (3, "Error: too slow; go on with --since 3\n")


async def test_a_watch_that_ends_before_its_snapshot_goes_on_where_it_began() -> None:
    """What was compacted was not seen: to go on behind it would be a gap."""
    async with scripted([{"type": "compacted", "revision": 9}]) as url:
        done = await run(url, "watch", "--since=3")
    assert done.err.endswith("; go on with --since 3\n")


async def test_a_reader_that_leaves_ends_it_without_a_word(tmp_path: Path) -> None:
    events = [{"type": "snapshot", "revision": n, "backends": [BACKEND]} for n in range(500)]
    async with scripted(events) as url:
        with trio.fail_after(20):
            async with running(url, tmp_path / "err", "watch", "--json") as process:
                assert process.stdout is not None
                await process.stdout.receive_some(10)
                await process.stdout.aclose()
                await process.wait()
    assert "Traceback" not in (tmp_path / "err").read_text()


async def test_ctrl_c_ends_it_without_a_word(tmp_path: Path) -> None:
    held = trio.Event()

    async def hold(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        await ws.send_message('{"jsonrpc":"2.0","id":1,"result":5}')
        await _send_event(ws, {"type": "snapshot", "revision": 3, "backends": []})
        await held.wait()

    async with trio.open_nursery() as nursery:
        ready = await nursery.start(serve_websocket, hold, "127.0.0.1", 0, None)
        url = f"ws://127.0.0.1:{ready.port}"
        with trio.fail_after(20):
            async with running(url, tmp_path / "err", "watch") as process:
                assert await Lines(process).next() == "No backends."
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
        nursery.cancel_scope.cancel()
    assert (tmp_path / "err").read_text() == ""


async def test_the_real_registry_is_followed(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with running(server.url, tmp_path / "err", "watch", "--json") as process:
                lines = Lines(process)
                snapshot = json.loads(await lines.next())
                assert snapshot["type"] == "snapshot"
                assert snapshot["backends"] == []
                await succeed(server.url, "register", "hub2", "h", "1")
                first = json.loads(await lines.next())
                assert first["type"] == "backend_registered"
                await succeed(server.url, "deregister", "hub2")
                assert json.loads(await lines.next())["type"] == "backend_stale"
                await succeed(server.url, "delete", "hub2")
                last = json.loads(await lines.next())
                assert (last["type"], last["name"]) == ("backend_deleted", "hub2")
                assert last["revision"] > first["revision"] > snapshot["revision"]
            since = f"--since={first['revision']}"
            async with running(server.url, tmp_path / "err", "watch", since) as process:
                lines = Lines(process)
                assert (await lines.next()).split()[1:3] == ["inactive", "hub2"]
                assert (await lines.next()).split()[1:3] == ["deleted", "hub2"]
