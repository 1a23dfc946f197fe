"""How changes are made: in groups, in order, all or none, and never lost on the way."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from plexus_registry.registry import LONG_DECLARATION
from plexus_registry.rules.backend import Declaration, Layer, Register, Update
from plexus_registry.rules.errors import NameTaken, NotFound, StartError, StorageFailed
from plexus_registry.storage.opening import read_records
from tests.fakes import Disk, opened

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.registry import Registry


def claim(name: str, port: int = 1) -> Register:
    return Register(name=name, host="h", port=port)


def on_disk(folder: Path) -> dict[str, int]:
    return {
        record.name: record.backend.port
        for record in read_records(folder / "registry.db")
        if record.backend is not None
    }


async def test_what_waits_together_is_saved_together(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        before = disk.saves
        disk.barrier = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.register, claim("first"))
            await disk.reached_barrier.wait()
            for index in range(63):
                nursery.start_soon(registry.register, claim(f"hub{index}"))
            await trio.testing.wait_all_tasks_blocked()
            assert registry.list() == (), "nothing shows before it is committed"
            barrier, disk.barrier = disk.barrier, None
            barrier.set()
        assert disk.saves == before + 2
        assert len(on_disk(tmp_path)) == 64


async def test_changes_are_judged_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    disk = Disk()
    outcomes: dict[int, str] = {}

    async def try_register(registry: Registry, port: int) -> None:
        try:
            await registry.register(claim("hub", port))
            outcomes[port] = "registered"
        except NameTaken as error:
            holder = error.data["holder"]
            outcomes[port] = f"refused, {getattr(holder, 'port', None)} holds it"

    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        disk.barrier = trio.Event()
        nursery.start_soon(registry.register, claim("first"))
        await disk.reached_barrier.wait()
        for port in (5, 6, 7):
            nursery.start_soon(try_register, registry, port)
            await trio.testing.wait_all_tasks_blocked()
        barrier, disk.barrier = disk.barrier, None
        barrier.set()
    assert outcomes == {
        5: "registered",
        6: "refused, 5 holds it",
        7: "refused, 5 holds it",
    }


async def test_a_group_that_cannot_be_saved_changes_nothing_and_everyone_hears_it(
    tmp_path: Path,
) -> None:
    disk = Disk()
    failures: list[str] = []

    async def must_fail(registry: Registry, port: int) -> None:
        with pytest.raises(StorageFailed) as failure:
            await registry.register(claim("hub", port))
        failures.append(str(failure.value.data["reason"]))

    async with opened(tmp_path, disk) as registry:
        await registry.register(claim("kept"))
        disk.is_full = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(must_fail, registry, 1)
            nursery.start_soon(must_fail, registry, 2)
        assert failures == ["registry.db: database or disk is full"] * 2
        assert [backend.name for backend in registry.list()] == ["kept"]
        disk.is_full = False
        await registry.register(claim("hub", 3))
        assert on_disk(tmp_path) == {"kept": 1, "hub": 3}


async def test_a_bug_while_saving_is_never_an_acknowledgement(tmp_path: Path) -> None:
    async def broken(_changes: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with opened(tmp_path) as registry:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry.commits._store, "save", broken)
            with pytest.raises(StorageFailed, match="internal error"):
                await registry.register(claim("hub"))
        assert registry.get("hub") is None


async def test_a_caller_who_leaves_before_its_turn_has_asked_for_nothing(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        disk.barrier = trio.Event()
        nursery.start_soon(registry.register, claim("first"))
        await disk.reached_barrier.wait()
        with trio.CancelScope() as impatience:
            impatience.cancel()
            await registry.register(claim("cancelled"))
        assert impatience.cancelled_caught
        barrier, disk.barrier = disk.barrier, None
        barrier.set()
        await registry.register(claim("last"))
    assert on_disk(tmp_path).keys() == {"first", "last"}


async def test_a_commit_in_hand_is_finished_though_its_caller_is_cancelled(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        disk.barrier = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.register, claim("hub"))
            await disk.reached_barrier.wait()
            nursery.cancel_scope.cancel()
            barrier, disk.barrier = disk.barrier, None
            barrier.set()
        assert registry.get("hub") is not None
    assert on_disk(tmp_path) == {"hub": 1}


async def test_a_ping_for_a_name_that_is_being_committed_is_not_lost(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        await registry.register(claim("hub"))
        await registry.register(claim("other"))
        disk.barrier = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.update, Update(name="hub", description="new"))
            await disk.reached_barrier.wait()
            nursery.start_soon(registry.ping, "hub")
            assert (await registry.ping("other")).success  # does not wait for the disk
            barrier, disk.barrier = disk.barrier, None
            barrier.set()
        found = registry.get("hub")
        assert found is not None
        assert found.description == "new"
        assert found.last_seen is not None
    for record in read_records(tmp_path / "registry.db"):
        assert record.backend is not None
        assert record.backend.last_seen is not None


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_large_declaration_is_judged_beside_the_loop_and_loses_no_ping(
    tmp_path: Path, *, is_removed: bool
) -> None:
    names = [f"n-{number:03}" for number in range(LONG_DECLARATION + 1)]
    declared = {name: Declaration(name=name, host="h", port=1) for name in names}
    moved = {name: Declaration(name=name, host="h", port=2) for name in names}
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        await registry.declare(Layer.FILE, declared)
        disk.late_barrier = barrier = trio.Event()

        async def ping_meanwhile() -> None:
            await disk.reached_barrier.wait()  # all is judged, and nothing published
            found = registry.get(names[0])
            assert found is not None
            assert found.port == 1
            nursery.start_soon(registry.ping, names[0])
            await wait_all_tasks_blocked()
            disk.late_barrier = None
            barrier.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping_meanwhile)
            saves = disk.saves
            reloaded = await registry.declare(Layer.FILE, {} if is_removed else moved)
            assert disk.saves == saves + 2
        found = registry.get(names[0])
        if is_removed:
            assert reloaded.removed == tuple(names)
            assert found is None
        else:
            assert reloaded.updated == tuple(names)
            assert found is not None
            assert found.port == 2
            assert found.last_seen is not None


async def test_what_is_said_to_have_failed_is_taken_back_with_the_next_commit(
    tmp_path: Path,
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        await registry.register(claim("kept"))
        disk.is_lying = True
        for change in (registry.register(claim("refused")), registry.delete("kept")):
            with pytest.raises(StorageFailed):
                await change
        disk.is_lying = False
        assert (await registry.register(claim("next"))).revision == 2
        shown = registry.list(active_only=False)
    async with opened(tmp_path) as registry:
        assert registry.list(active_only=False) == shown
        assert [each.revision for each in registry.change_log.after(0)] == [1, 2]


async def test_after_an_older_copy_of_the_database_followers_begin_anew(tmp_path: Path) -> None:
    database, copy = tmp_path / "registry.db", tmp_path / "copy"
    async with opened(tmp_path) as registry:
        await registry.register(claim("a"))
        await registry.register(claim("b"))
    shutil.copy(database, copy)
    async with opened(tmp_path) as registry:
        assert registry.change_log.revision == 2
        await registry.delete("a")
    shutil.copy(copy, database)
    async with opened(tmp_path) as registry:
        assert [each.name for each in registry.list()] == ["a", "b"]
        assert not any(registry.change_log.can_resume(revision) for revision in (0, 1, 2, 3))
        revision = registry.change_log.revision
        assert (await registry.register(claim("c"))).revision == revision + 1
    async with opened(tmp_path) as registry:
        assert registry.change_log.revision == revision + 1
        assert registry.change_log.can_resume(revision)
        assert not registry.change_log.can_resume(3)
    database.unlink()  # an empty one is no different
    with pytest.raises(StartError, match=f"is missing.*at revision {revision + 1}.*--start-empty"):
        async with opened(tmp_path):
            pytest.fail("it must not start")
    assert not database.exists()
    async with opened(tmp_path, start_empty=True) as registry:
        assert registry.list() == ()
        assert registry.change_log.revision > revision + 1


async def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        assert not (await registry.ping("nobody")).success
        for verb in (registry.delete, registry.deregister):
            with pytest.raises(NotFound):
                await verb("nobody")
        with pytest.raises(NotFound):
            await registry.update(Update(name="nobody", port=1))


async def test_a_registration_that_changes_nothing_is_not_written(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        first = await registry.register(claim("hub"))
        before = disk.saves
        assert await registry.register(claim("hub")) == first
        assert disk.saves == before


async def test_the_file_keeps_no_change_more_than_is_said(tmp_path: Path) -> None:
    async with opened(tmp_path, keep_changes=3) as registry:
        for number in range(1, 6):
            await registry.register(claim(f"hub{number}"))
            with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
                rows = connection.execute("SELECT revision FROM changes ORDER BY revision")
                kept = [revision for (revision,) in rows]
            assert kept == [*range(max(1, number - 2), number + 1)]
