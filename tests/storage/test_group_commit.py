"""What a save that fails leaves behind, who hears of it, and how it is repaired."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from plexus_registry.rules.backend import Declaration, Layer, Register
from plexus_registry.rules.errors import NotFound, StorageFailed
from plexus_registry.storage.opening import read_records
from plexus_registry.tasks.periodic import REPAIR_INTERVAL, repair_forever
from tests.fakes import Disk, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from plexus_registry.registry import Registry
    from plexus_registry.rules.backend import Backend

    Published = tuple[str, Backend | None, Backend | None]

T = TypeVar("T")


def claim(name: str, port: int = 1) -> Register:
    return Register(name=name, host="h", port=port)


def names_on_disk(folder: Path) -> list[str]:
    records = read_records(folder / "registry.db")
    return sorted(record.name for record in records if record.backend is not None)


def is_failing(registry: Registry) -> bool:
    return registry.commits.failure is not None


class WatchedDisk(Disk):
    """A disk that notes when it was asked for something, and can be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []
        self.interrupt: BaseException | None = None

    async def __call__(self, sync_fn: Callable[[], T], /) -> T:
        self.asked.append(trio.current_time())
        if self.interrupt is not None:
            await trio.lowlevel.checkpoint()
            interrupt, self.interrupt = self.interrupt, None
            raise interrupt
        return await super().__call__(sync_fn)


class Connection:
    """An SQLite connection that does something else in the place of one statement."""

    def __init__(self, real: sqlite3.Connection, statement: str, act: Callable[[], None]) -> None:
        self._real = real
        self._statement = statement
        self._act = act

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        if sql.startswith(self._statement):
            self._act()
        return self._real.execute(sql, *arguments)  # type: ignore[arg-type] # passed through

    def executemany(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        if sql.startswith(self._statement):
            self._act()
        return self._real.executemany(sql, *arguments)  # type: ignore[arg-type] # passed through

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def before_statement(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, statement: str, act: Callable[[], None]
) -> None:
    """Have something done before each statement that begins so."""
    db = registry.commits._store._db
    monkeypatch.setattr(db, "conn", Connection(db.conn, statement, act))


def fail() -> None:
    raise sqlite3.OperationalError("disk I/O error")


async def test_a_record_that_goes_takes_its_row_with_it_and_no_other(tmp_path: Path) -> None:
    def layers() -> list[Layer]:
        return sorted(record.layer for record in read_records(tmp_path / "registry.db"))

    async with opened(tmp_path) as registry:
        await registry.register(claim("a"))
        declared = {"a": Declaration(name="a", host="h", port=2)}
        await registry.declare(Layer.FILE, declared)
        assert layers() == [Layer.DATABASE, Layer.FILE]
        await registry.declare(Layer.FILE, {})
        assert layers() == [Layer.DATABASE]
        await registry.delete("a")
        assert layers() == []


# The repair.


async def test_the_repair_is_tried_every_second_until_it_succeeds_and_logged_once(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk = WatchedDisk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(claim("kept"))
        await nursery.start(repair_forever, registry)
        for failures in (1, 2):
            disk.asked.clear()
            disk.is_full = True
            with pytest.raises(StorageFailed):
                await registry.register(claim("refused"))
            since = trio.current_time()
            await trio.sleep(9.5 * REPAIR_INTERVAL)
            assert is_failing(registry)
            disk.is_full = False
            await trio.sleep(100 * REPAIR_INTERVAL)
            assert not is_failing(registry)
            tries = [moment - since for moment in disk.asked]
            assert tries == pytest.approx([number * REPAIR_INTERVAL for number in range(11)])
            assert caplog.text.count("storage fails") == failures
            assert caplog.text.count("storage works again") == failures
        nursery.cancel_scope.cancel()


async def test_a_change_that_is_saved_repairs_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = WatchedDisk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await nursery.start(repair_forever, registry)
        disk.is_full = True
        with pytest.raises(StorageFailed):
            await registry.register(claim("refused"))
        disk.is_full = False
        await registry.register(claim("other"))
        assert not is_failing(registry)
        asked = len(disk.asked)
        await trio.sleep(10 * REPAIR_INTERVAL)
        assert len(disk.asked) == asked
        nursery.cancel_scope.cancel()


# What is known of the outcome.


@pytest.mark.parametrize("statement", ["BEGIN", "DELETE", "INSERT"])
async def test_a_failure_before_the_commit_left_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    async with opened(tmp_path) as registry:
        await registry.register(claim("kept"))
        with monkeypatch.context() as patch:
            before_statement(patch, registry, statement, fail)
            for _ in range(2):  # nothing of the first try is in doubt at the second one
                with pytest.raises(StorageFailed) as refused:
                    await registry.register(claim("refused"))
                assert "outcome" not in refused.value.data
                assert not refused.value.is_unknown
        assert names_on_disk(tmp_path) == ["kept"]


async def test_a_failed_look_at_the_files_left_nothing(tmp_path: Path) -> None:
    database = tmp_path / "registry.db"
    async with opened(tmp_path) as registry:
        await registry.register(claim("kept"))
        database.rename(tmp_path / "away")
        with pytest.raises(StorageFailed, match="moved") as refused:
            await registry.register(claim("refused"))
        assert "outcome" not in refused.value.data
        (tmp_path / "away").rename(database)
        assert names_on_disk(tmp_path) == ["kept"]


async def test_the_outcome_of_a_failed_commit_is_unknown_until_a_save_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as registry:
        await registry.register(claim("kept"))
        for statement in ("COMMIT", "BEGIN"):  # the second left nothing, but the first may have
            with monkeypatch.context() as patch:
                before_statement(patch, registry, statement, fail)
                with pytest.raises(StorageFailed) as refused:
                    await registry.register(claim("refused"))
                assert refused.value.data["outcome"] == "unknown"
        with pytest.raises(NotFound):
            await registry.delete("refused")
        with monkeypatch.context() as patch:
            before_statement(patch, registry, "BEGIN", fail)
            with pytest.raises(StorageFailed) as refused:
                await registry.register(claim("refused"))
            assert "outcome" not in refused.value.data


async def test_files_that_are_moved_during_a_commit_are_noticed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, away = tmp_path / "registry.db", tmp_path / "away"
    async with opened(tmp_path) as registry:
        await registry.register(claim("kept"))
        with monkeypatch.context() as patch:
            before_statement(patch, registry, "COMMIT", lambda: void(database.rename(away)))
            with pytest.raises(StorageFailed, match="moved") as refused:
                await registry.register(claim("refused"))
            assert refused.value.data["outcome"] == "unknown"
        away.rename(database)
        await registry.commits.repair()
        assert names_on_disk(tmp_path) == ["kept"]


def void(_value: object) -> None:
    """Take a value for nothing."""


# Who hears of it.


async def commit_together(
    registry: Registry, disk: WatchedDisk, interrupt: BaseException | None = None
) -> dict[str, object]:
    """Register three names in one group, led by `leader`, and return what each caller heard."""
    heard: dict[str, object] = {}

    async def register(name: str) -> None:
        try:
            await registry.register(claim(name))
            heard[name] = "registered"
        except BaseException as error:
            heard[name] = error
            if not isinstance(error, (Exception, KeyboardInterrupt)):
                raise

    barrier = disk.barrier = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(register, "before")
        await disk.reached_barrier.wait()
        for name in ("leader", "follower", "last"):
            nursery.start_soon(register, name)
            await trio.testing.wait_all_tasks_blocked()
        disk.barrier = None
        disk.interrupt = interrupt
        barrier.set()
    assert heard.pop("before") == "registered"
    return heard


async def test_everyone_in_a_group_hears_of_an_interrupted_save(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = WatchedDisk()
    async with opened(tmp_path, disk) as registry:
        heard = await commit_together(registry, disk, KeyboardInterrupt())
        assert isinstance(heard.pop("leader"), KeyboardInterrupt)
        assert heard.keys() == {"follower", "last"}
        for error in heard.values():
            assert isinstance(error, StorageFailed)
            assert error.is_unknown
            assert "KeyboardInterrupt" in error.reason
        assert [each.name for each in registry.list()] == ["before"]
        await registry.commits.repair()
        assert names_on_disk(tmp_path) == ["before"]


async def test_a_bug_while_publishing_is_raised_once_and_loses_nothing(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = WatchedDisk()
    async with opened(tmp_path, disk) as registry:
        real = registry.health.note_changes

        def note_changes(changes: Sequence[Published], *others: Iterable[str]) -> None:
            real(changes, *others)
            if any(name == "leader" for name, _, _ in changes):
                raise ZeroDivisionError

        monkeypatch.setattr(registry.health, "note_changes", note_changes)
        heard = await commit_together(registry, disk)
        assert isinstance(heard.pop("leader"), ZeroDivisionError)
        # Theirs are on the disk, and so is that of the leader.
        assert heard == {"follower": "registered", "last": "registered"}
        names = ["before", "follower", "last", "leader"]
        assert names_on_disk(tmp_path) == names
        assert sorted(each.name for each in registry.list()) == names
        assert not is_failing(registry)
        await registry.register(claim("next"))
    async with opened(tmp_path) as registry:
        assert sorted(each.name for each in registry.list()) == sorted([*names, "next"])


async def test_the_next_in_the_queue_leads_when_the_first_leaves(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        barrier = disk.barrier = trio.Event()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(registry.register, claim("before"))
                await disk.reached_barrier.wait()
                async with trio.open_nursery() as leaving:
                    leaving.start_soon(registry.register, claim("leaves"))
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(registry.register, claim("next"))
                    await trio.testing.wait_all_tasks_blocked()
                    leaving.cancel_scope.cancel()
                disk.barrier = None
                barrier.set()
        assert names_on_disk(tmp_path) == ["before", "next"]
