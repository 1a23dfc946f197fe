"""Watchers against the committed history, in any interleaving of all that can happen to both.

Every change is taken from the feed and checked on its own: revisions without a gap, and the state
before with the events applied is the state after. What each watcher was sent must then be exactly
that history, filtered: from a snapshot or from the revision that it named, up to where it is.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from trio.testing import wait_all_tasks_blocked

from plexus_registry.app import open_registry
from plexus_registry.rpc.fairness import Fairness
from plexus_registry.rpc.plexus import Hub
from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.errors import MethodError
from plexus_registry.server.connection import Watchers, serve_connection
from plexus_registry.server.handshake import Shutdown
from plexus_registry.settings import Settings
from plexus_registry.tasks.periodic import sweep_once, watch_config_once
from tests.fakes import ScriptedPeer, entry, run_inline
from tests.machine.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plexus_registry.registry import Registry

Json = dict[str, object]
State = dict[str, Json]

HUB = Hub("registry-hub")
KEPT = 8
STALE_AFTER = 60.0

names = st.sampled_from(["a", "b", "c"])
namespaces = st.sampled_from([None, "n", "m"])
ports = st.sampled_from([1, 2])
claims = st.builds(
    Register,
    name=names,
    host=st.just("h"),
    port=ports,
    namespace=namespaces,
    source=st.sampled_from(["manual", "auto"]),
    replace=st.booleans(),
)
updates = st.builds(Update, name=names, port=ports, namespace=st.sampled_from([None, "", "n", "m"]))
writes: st.SearchStrategy[tuple[str, object]] = st.one_of(
    st.tuples(st.just("register"), claims),
    st.tuples(st.just("update"), updates),
    st.tuples(st.sampled_from(["delete", "deregister", "ping"]), names),
)
FORMS = ("direct", "hub", "nested", "underscored")


@dataclass(eq=False)
class Watcher:
    """One watch on a connection of its own, as its peer sees it.

    Attributes:
        since: The revision that it named.
        asked_at: The revision when it asked.
        reads_at_first: Whether it was answered at that revision.
    """

    wire: ScriptedPeer
    form: str
    params: Json
    asked_at: int
    reads_at_first: bool
    number: int | None = None
    events: list[Json] = field(default_factory=list)
    read: int = 0
    is_over: bool = False

    @property
    def since(self) -> int | None:
        since = self.params["since"]
        assert since is None or isinstance(since, int)
        return since

    @property
    def revision(self) -> int | None:
        """The last revision that it heard of."""
        return int(str(self.events[-1]["revision"])) if self.events else self.since

    def request(self) -> Json:
        call: Json = {"method": "registry.watch", "params": self.params}
        method, params = {
            "direct": ("registry.watch", self.params),
            "underscored": ("registry_watch", self.params),
            "hub": ("registry-hub.call", call),
            "nested": ("registry-hub.call", {"method": "registry-hub.call", "params": call}),
        }[self.form]
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}

    def unsubscription(self) -> Json:
        method = {
            "direct": "registry.unwatch",
            "underscored": "registry_unsubscribe_watch",
            "hub": "registry-hub.call_unsub",
            "nested": "registry-hub.call_unsub",
        }[self.form]
        return {"jsonrpc": "2.0", "id": 2, "method": method, "params": [self.number]}

    def take_frames(self) -> None:
        """Read what came since the last time, as a strict client does."""
        frames = self.wire.frames[self.read :]
        self.read = len(self.wire.frames)
        for frame in map(msgspec.json.decode, frames):
            if "id" in frame:
                self._take_answer(frame)
            else:
                self._take_notification(frame)

    def _take_answer(self, answer: Json) -> None:
        if answer["id"] == 1:
            assert self.number is None
            assert type(answer["result"]) is int
            self.number = answer["result"]
        else:
            assert answer["result"] is not self.is_over
            self.is_over = True

    def _take_notification(self, frame: Json) -> None:
        assert not self.is_over, "nothing follows the end"
        method = {"direct": "registry.event", "underscored": "registry_watch"}
        assert frame["method"] == method.get(self.form, "registry-hub.call")
        params = msgspec.convert(frame["params"], Json)
        assert self.number is not None, "the acknowledgement comes first"
        assert params["subscription"] == self.number
        item = msgspec.convert(params["result"], Json)
        if self.form == "nested":
            item = self._unpacked(item, "registry-hub.call")
        if self.form != "direct" and item:
            item = self._unpacked(item, "registry.watch")
        if item:
            self.events.append(item)
            self.is_over = self.form == "direct" and item["type"] == "error"

    def _unpacked(self, item: Json, content_type: str) -> Json:
        if item["type"] == "done":
            assert self.events[-1]["type"] == "error"
            # The inner stream of a nested call has an end of its own, before the outer one.
            self.is_over = self.form != "nested" or content_type != "registry.watch"
            return {}
        assert (item["type"], item["content_type"]) == ("data", content_type)
        return msgspec.convert(item["content"], Json)


class WatchMachine(RuleBasedStateMachine):
    watchers = Bundle("watchers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.now = 1_700_000_000
        self.folders = [Path(tempfile.mkdtemp(prefix="registry-watch-"))]
        self.config_path = self.folders[0] / "backends.toml"
        self.file_number = 0
        # By revision: what there was, and the event that led there.
        self.states: list[State] = [{}]
        self.history: list[Json] = [{}]
        self.live: list[Watcher] = []
        self._open()

    def teardown(self) -> None:
        try:
            self._close()
        finally:
            self.loop.close()
            for folder in self.folders:
                shutil.rmtree(folder)

    # What changes the registry.

    @rule(write=writes)
    def write(self, write: tuple[str, object]) -> None:
        self._change(partial(self._write, *write))

    @rule(several=st.lists(writes, min_size=2, max_size=5))
    def write_at_once(self, several: list[tuple[str, object]]) -> None:
        async def all_of_them() -> None:
            async with trio.open_nursery() as nursery:
                for each in several:
                    nursery.start_soon(self._write, *each)

        self._change(all_of_them)

    @rule(port=ports)
    def write_more_than_is_kept(self, port: int) -> None:
        for step in range(KEPT + 2):
            claim = Register(name="a", host=f"h{step}", port=port, replace=True)
            self._change(partial(self._write, "register", claim))

    @rule(
        stated=st.dictionaries(names, ports, max_size=3),
        is_called=st.booleans(),
    )
    def edit_file(self, stated: dict[str, int], *, is_called: bool) -> None:
        self.file_number += 1
        part = self.config_path.with_suffix(f".{self.file_number}")
        text = "".join(entry(name, port) for name, port in stated.items())
        part.write_text(f"# {self.file_number}\n{text}")
        part.replace(self.config_path)
        if is_called:
            self._change(self.registry.reload)
        else:
            self._change(partial(watch_config_once, self.registry))

    @rule(seconds=st.sampled_from([1, 61]))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds
        self.loop.jump(seconds)
        self._change(partial(sweep_once, self.registry))

    @rule(is_kill=st.booleans())
    def restart(self, *, is_kill: bool) -> None:
        before = self.folders[-1]
        if is_kill:
            self.folders.append(Path(tempfile.mkdtemp(prefix="registry-watch-")))
            for suffix in ("", "-wal"):
                shutil.copy(before / f"registry.db{suffix}", self.folders[-1])
        self._close()
        self._open()

    # What watchers do.

    @rule(
        target=watchers,
        form=st.sampled_from(FORMS),
        name=st.one_of(st.none(), names),
        namespace=namespaces,
        back=st.one_of(st.none(), st.integers(-1, KEPT + 2)),
        reads=st.booleans(),
    )
    def watch(
        self, form: str, name: str | None, namespace: str | None, back: int | None, *, reads: bool
    ) -> Watcher:
        since = None if back is None else max(0, self.registry.change_log.revision - back)
        params: Json = {"since": since, "name": name, "namespace": namespace}
        return self._begin(form, params, reads=reads)

    @rule(target=watchers, watcher=watchers, reads=st.booleans())
    def resume(self, watcher: Watcher, *, reads: bool) -> Watcher:
        event("resumed after " + ("the end" if watcher.is_over else "a loss or beside itself"))
        return self._begin(watcher.form, {**watcher.params, "since": watcher.revision}, reads=reads)

    @rule(watcher=watchers)
    def stop_reading(self, watcher: Watcher) -> None:
        if watcher.wire.barrier is None:
            watcher.wire.barrier = trio.Event()

    @rule(watcher=watchers)
    def read_on(self, watcher: Watcher) -> None:
        self.loop.run(self._open_gate, watcher)

    @rule(watcher=watchers, port=ports, reads_on=st.booleans())
    def fall_behind(self, watcher: Watcher, port: int, *, reads_on: bool) -> None:
        self.stop_reading(watcher)
        self.write_more_than_is_kept(port)
        if reads_on:
            self.read_on(watcher)

    @rule(watcher=watchers)
    def unwatch(self, watcher: Watcher) -> None:
        if watcher in self.live and watcher.number is not None and not watcher.is_over:
            self.loop.run(self._say, watcher, watcher.unsubscription())

    @rule(watcher=consumes(watchers))
    def leave(self, watcher: Watcher) -> None:
        if watcher in self.live:
            self.live.remove(watcher)
            self.loop.run(watcher.wire.leave)

    # What must hold after every step.

    @invariant()
    def every_watcher_has_exactly_the_history(self) -> None:
        for watcher in self.live:
            watcher.take_frames()
            self._check(watcher)

    def _check(self, watcher: Watcher) -> None:
        events = [_plain(each) for each in watcher.events]
        cut_off = events.pop() if events and events[-1]["type"] == "error" else None
        at = watcher.since
        if at is not None and watcher.reads_at_first:
            is_known = watcher.asked_at - KEPT <= at <= watcher.asked_at
            assert is_known == (not events or events[0]["type"] != "compacted")
        if events and events[0]["type"] == "compacted":
            assert at is not None
            seen = int(str(events.pop(0)["revision"]))
            assert not seen - KEPT <= at <= seen
            assert (events[0]["type"], events[0]["revision"]) == ("snapshot", seen)
        if events and events[0]["type"] == "snapshot":
            snapshot = events.pop(0)
            at = int(str(snapshot["revision"]))
            assert at >= watcher.asked_at
            backends = msgspec.convert(snapshot["backends"], list[Json])
            wanted = [each for each in self.states[at].values() if _wants(watcher, each)]
            order = sorted(wanted, key=lambda each: (-int(str(each["created_at"])), each["name"]))
            assert backends == order
        if at is None:
            assert not watcher.events, "a snapshot comes first"
            return
        due = [each for each in self.history[at + 1 :] if self._is_due(watcher, each)]
        assert events == due[: len(events)]
        if cut_off is not None:
            event("cut off")
            assert cut_off["code"] == "too_slow"
            seen = int(str(cut_off["revision"]))
            assert events == [each for each in due if int(str(each["revision"])) <= seen]
        elif watcher.wire.barrier is None and not watcher.is_over:
            assert events == due, "who reads has everything"

    def _is_due(self, watcher: Watcher, change: Json) -> bool:
        revision = int(str(change["revision"]))
        if change["type"] == "reloaded":
            return watcher.params["name"] is None and watcher.params["namespace"] is None
        backend = change.get("backend")
        name = change.get("name") if backend is None else msgspec.convert(backend, Json)["name"]
        around = (self.states[at].get(str(name)) for at in (revision - 1, revision))
        return any(each is not None and _wants(watcher, each) for each in around)

    # Helpers.

    def _change(self, act: Callable[[], Awaitable[object]]) -> None:
        async def change() -> None:
            await act()
            await wait_all_tasks_blocked()

        self.loop.run(change)
        self._learn()

    async def _write(self, verb: str, argument: object) -> None:
        with suppress(MethodError):
            await getattr(self.registry, verb)(argument)

    def _learn(self) -> None:
        """Take what was committed into the history, and hold it against what there is."""
        feed = self.registry.change_log
        known = len(self.history) - 1
        for entry_ in feed.after(max(known, feed.revision - KEPT)):
            change = _plain(msgspec.json.decode(entry_.event))
            assert change["revision"] == entry_.revision == len(self.history)
            self.history.append(change)
            self.states.append(_after(self.states[-1], change))
        assert feed.revision == self.registry.catalog.revision == len(self.history) - 1
        listed = msgspec.json.decode(self.registry.catalog.listed(active_only=False))
        assert listed["revision"] == feed.revision
        shown = {each["name"]: _without_sign_of_life(each) for each in listed["backends"]}
        assert shown == self.states[-1]

    def _begin(self, form: str, params: Json, *, reads: bool) -> Watcher:
        async def begin() -> Watcher:
            connected: list[ScriptedPeer] = []
            is_connected = trio.Event()

            async def connection() -> None:
                async with trio.open_nursery() as nursery:
                    wire = ScriptedPeer(nursery)
                    connected.append(wire)
                    is_connected.set()
                    ours = wire.websocket
                    await serve_connection(self.registry, HUB, ours, self.shutdown, self.senders)
                    await ours.close()
                    nursery.cancel_scope.cancel()

            self.loop.nursery.start_soon(connection)
            await is_connected.wait()
            (wire,) = connected
            wire.barrier = None if reads else trio.Event()
            watcher = Watcher(
                wire, form, params, asked_at=self.registry.change_log.revision, reads_at_first=reads
            )
            await self._say(watcher, watcher.request())
            return watcher

        watcher = self.loop.run(begin)
        self.live.append(watcher)
        return watcher

    async def _say(self, watcher: Watcher, request: Json) -> None:
        await watcher.wire.say(msgspec.json.encode(request).decode())
        await wait_all_tasks_blocked()

    async def _open_gate(self, watcher: Watcher) -> None:
        barrier, watcher.wire.barrier = watcher.wire.barrier, None
        if barrier is not None:
            barrier.set()
        await wait_all_tasks_blocked()

    def _open(self) -> None:
        chosen = Settings(
            db_path=self.folders[-1] / "registry.db",
            config_path=self.config_path,
            auto_register=False,
            stale_after=STALE_AFTER,
            keep_changes=KEPT,
        )
        self.shutdown = Shutdown()
        self._context = open_registry(chosen, now=lambda: self.now, run_sync=run_inline)
        self.registry: Registry = self.loop.run(self._context.__aenter__)
        # All connections share the encoded changes.
        self.senders = Watchers(self.registry, Fairness())
        self.watching = trio.CancelScope()
        self.loop.run(self.loop.nursery.start, self._send_changes)
        self._learn()

    async def _send_changes(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.watching:
            await self.senders.send_forever(task_status=task_status)

    def _close(self) -> None:
        async def close() -> None:
            for watcher in self.live:
                await watcher.wire.leave()
                await self._open_gate(watcher)
            self.watching.cancel()
            await wait_all_tasks_blocked()
            await self._context.__aexit__(None, None, None)

        self.loop.run(close)
        self.live.clear()


def _wants(watcher: Watcher, backend: Json) -> bool:
    return all(watcher.params[key] in (None, backend.get(key)) for key in ("name", "namespace"))


def _after(state: State, change: Json) -> State:
    kind = change["type"]
    if kind == "reloaded":
        assert change["added"] or change["updated"] or change["removed"]
        return state
    if kind == "backend_deleted":
        name = str(change["name"])
        assert name in state
        return {key: value for key, value in state.items() if key != name}
    backend = msgspec.convert(change["backend"], Json)
    before = state.get(str(backend["name"]))
    assert (before is None) == (kind == "backend_registered")
    if before is not None:
        was, is_now = before["is_active"], backend["is_active"]
        turned = "backend_active" if is_now else "backend_stale"
        assert kind == ("backend_updated" if was == is_now else turned)
        assert before != backend, "nothing is told where nothing changed"
    return {**state, str(backend["name"]): backend}


def _plain(change: Json) -> Json:
    """An event without the times of signs of life: those are no changes."""
    if "backend" in change:
        return {
            **change,
            "backend": _without_sign_of_life(msgspec.convert(change["backend"], Json)),
        }
    if "backends" in change:
        backends = msgspec.convert(change["backends"], list[Json])
        return {**change, "backends": [_without_sign_of_life(each) for each in backends]}
    return change


def _without_sign_of_life(backend: Json) -> Json:
    return {key: value for key, value in backend.items() if key != "last_seen"}


TestWatchMachine = pytest.mark.slow(WatchMachine.TestCase)
