"""The history of a registry: what it holds, who made each change, and the same in words."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from plexus_registry.rules.backend import Layer, Register, Update
from plexus_registry.rules.errors import InvalidParamsError, MethodError, StorageFailed
from plexus_registry.rules.events import Cause, Origin, called
from plexus_registry.rules.history import MAX_CHARACTERS, in_words
from plexus_registry.rules.states import Answered, Unanswered
from plexus_registry.tasks.periodic import sweep_once, watch_config_once
from tests.fakes import Clock, Disk, entry, opened

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.registry import Registry
    from plexus_registry.rules.events import LoggedChange

HUB = Register(name="hub", host="h", port=1)
CLIENT = called("update", peer="127.0.0.1:5", token="write")  # noqa: S106 - what it allows


def causes(registry: Registry) -> list[Cause | None]:
    return [each.by for each in registry.history()]


def last(registry: Registry) -> LoggedChange:
    return registry.history(limit=1)[0]


async def test_a_call_is_noted_with_its_time_and_both_backends(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, now=clock) as registry:
        await registry.register(HUB)
        before = registry.get("hub")
        clock.now += 1
        await registry.update(Update(name="hub", port=2), by=CLIENT)
        change = last(registry)
        assert (change.revision, change.at, change.type, change.name, change.by) == (
            *(2, clock.now * 1000, "backend_updated", "hub"),
            CLIENT,
        )
        assert (change.before, change.after) == (before, registry.get("hub"))
        await registry.delete("hub")
        assert last(registry).after is None
        assert last(registry).before == change.after


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("update", Update(name="hub", port=2)),
        ("deregister", "hub"),
        ("delete", "hub"),
    ],
)
async def test_a_call_of_this_process_has_its_method(
    tmp_path: Path, verb: str, argument: object
) -> None:
    async with opened(tmp_path) as registry:
        await registry.register(HUB)
        assert causes(registry) == [called("register")]
        await getattr(registry, verb)(argument)
        assert last(registry).by == called(verb)


async def test_a_ping_is_noted_if_it_changes_the_state(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.register(HUB)
        await registry.ping("hub", by=CLIENT)
        assert len(registry.history()) == 1
        await registry.deregister("hub")
        await registry.ping("hub", by=CLIENT)
        assert (last(registry).type, last(registry).by) == ("backend_active", CLIENT)


async def test_what_is_refused_or_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        await registry.register(HUB)
        with pytest.raises(MethodError):
            await registry.register(Register(name="hub", host="other", port=1))
        with pytest.raises(MethodError):
            await registry.delete("nobody")
        disk.is_full = True
        with pytest.raises(StorageFailed):
            await registry.delete("hub")
        disk.is_full = False
        assert causes(registry) == [called("register")]
    async with opened(tmp_path) as registry:
        assert causes(registry) == [called("register")]


async def test_the_origins_that_declare_are_noted(tmp_path: Path) -> None:
    (tmp_path / "backends.toml").write_text(entry("filed"))
    async with opened(tmp_path, auto_register=True) as registry:
        await registry.declare(Layer.ENV, {})
        changes = {each.name: each.by for each in registry.history()}
        assert changes == {
            "plexus": Cause(origin=Origin.AUTO),
            "filed": Cause(origin=Origin.FILE),
            None: Cause(origin=Origin.FILE),
        }
        (tmp_path / "backends.toml").write_text(entry("filed", 22))
        await registry.reload(by=CLIENT)
        assert causes(registry)[:2] == [CLIENT, CLIENT]
        (tmp_path / "backends.toml").unlink()
        for _ in range(2):
            await watch_config_once(registry)
        assert causes(registry)[:2] == [Cause(origin=Origin.FILE)] * 2


async def test_the_environment_is_noted(tmp_path: Path) -> None:
    async with opened(tmp_path, env_backends="b=ws://env:7") as registry:
        assert causes(registry) == [Cause(origin=Origin.ENV)]


async def test_a_probe_and_a_check_are_noted(tmp_path: Path) -> None:
    async with opened(tmp_path, probe_interval=15) as registry:
        await registry.register(HUB)
        answer = Answered(name="hub", latency_ms=1.0, version="2")
        hub = registry.get("hub")
        assert hub is not None
        await registry.health.note_probe(hub, answer, began=trio.current_time())
        assert last(registry).by == Cause(origin=Origin.PROBE)
        for _ in range(3):
            hub = registry.get("hub")
            assert hub is not None
            gone = Unanswered(reason="connect: refused")
            moment = trio.current_time()
            await registry.health.note_probe(hub, gone, began=moment, by=called("check"))
        assert (last(registry).type, last(registry).by) == ("backend_stale", called("check"))
        assert in_words(last(registry)) == (
            "hub: state up -> down: 3 probes in a row failed, the last one: connect: refused"
            " (registry.check in this process)"
        )


async def test_silence_is_noted(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    async with opened(tmp_path) as registry:
        await registry.register(HUB)
        await registry.ping("hub")
        await trio.sleep(61)
        await sweep_once(registry)
        assert last(registry).by == Cause(origin=Origin.SILENCE)


async def test_a_start_with_an_older_copy_is_noted(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.register(HUB)
    (tmp_path / "registry.db").unlink()
    async with opened(tmp_path, start_empty=True) as registry:
        (change,) = registry.history()
        assert (change.type, change.by) == ("compacted", Cause(origin=Origin.START))
        assert change.at is not None


async def test_the_history_is_filtered_and_read_page_by_page(tmp_path: Path) -> None:
    async with opened(tmp_path, keep_changes=8) as registry:
        for number in range(10):
            name = "ab"[number % 2]
            await registry.register(
                Register(name=name, host="h", port=number + 1, namespace=f"n-{name}", replace=True)
            )
        assert [each.revision for each in registry.history()] == [*range(10, 2, -1)]
        assert [each.revision for each in registry.history(before=5)] == [4, 3]
        assert [each.revision for each in registry.history(limit=2)] == [10, 9]
        assert [each.revision for each in registry.history(name="a", limit=2)] == [9, 7]
        assert [each.name for each in registry.history(namespace="n-b")] == ["b"] * 4
        assert registry.history(name="nobody") == ()
        for limit in (0, 1001, True):
            with pytest.raises(InvalidParamsError, match="limit"):
                registry.history(limit=limit)


async def test_an_answer_does_not_grow_without_bound(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        for number in range(200):
            metadata = {"text": "x" * 16_000}
            await registry.register(
                Register(name="a", host="h", port=number + 1, metadata=metadata, replace=True)
            )
        changes = registry.history(limit=1000)
        size = len(msgspec.json.encode(changes))
        assert MAX_CHARACTERS < size < MAX_CHARACTERS + 100_000
        rest = registry.history(before=changes[-1].revision, limit=1000)
        assert len(changes) + len(rest) == 200


async def test_the_log_has_the_same_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "plexus_registry.registry")
    async with opened(tmp_path) as registry:
        await registry.register(HUB)
        await registry.update(
            Update(name="hub", host="new", port=2, description="b\x1b"),
            by=CLIENT,
        )
        await registry.deregister("hub")
        await registry.delete("hub")
        words = [in_words(each) for each in reversed(registry.history())]
    assert words == [
        "hub: registered at ws://h:1 (registry.register in this process)",
        'hub: host "h" -> "new", port 1 -> 2, description none -> "b\\u001b"'
        " (registry.update from 127.0.0.1:5, write token)",
        "hub: state unknown -> deregistered: it said goodbye, or somebody did for it"
        " (registry.deregister in this process)",
        "hub: deleted (registry.delete in this process)",
    ]
    assert [
        each.getMessage() for each in caplog.records if each.name.endswith(".registry")
    ] == words
