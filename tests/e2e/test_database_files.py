"""The files of the database: what other programs do to them, and what is wrong with them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry.storage.opening import open_store
from tests.e2e.database import stored_rows
from tests.e2e.harness import dial, run_command, running_registry, with_prelude
from tests.e2e.test_adoption import ROWS, copies, original_rows, write_original
from tests.e2e.test_start import refused_start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STORAGE_FAILED = -32004
OPTIONS = ("--no-auto-register", "--poll-interval=3600")


async def register(folder: Path, *names: str) -> None:
    """Run a registry, register names, and stop it."""
    with trio.fail_after(20):
        async with running_registry(folder, *OPTIONS) as server, dial(server.url) as peer:
            for name in names:
                await peer.call("registry.register", name=name, host="h", port=1)
            assert await server.stop() == 0


async def names_in(folder: Path, *options: str) -> list[str]:
    with trio.fail_after(20):
        async with running_registry(folder, *OPTIONS, *options) as server:
            async with dial(server.url) as peer:
                return await peer.names()


def cut_database(folder: Path) -> None:
    os.truncate(folder / "registry.db", 4096)


def empty_database(folder: Path) -> None:
    os.truncate(folder / "registry.db", 0)


def cut_log(folder: Path) -> None:
    log = folder / "registry.db-wal"
    os.truncate(log, log.stat().st_size // 2)


def empty_log(folder: Path) -> None:
    os.truncate(folder / "registry.db-wal", 0)


def overwrite_database(folder: Path) -> None:
    with (folder / "registry.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(100)
        file.write(b"\0" * (size - 100))


@pytest.mark.parametrize(
    ("spoil", "is_stopped_before"),
    [
        (cut_database, True),
        (empty_database, True),
        (overwrite_database, True),
        (empty_log, False),
        (cut_log, False),
    ],
)
async def test_files_that_are_cut_short_while_it_runs_are_noticed(
    tmp_path: Path, spoil: Callable[[Path], None], *, is_stopped_before: bool
) -> None:
    if is_stopped_before:  # so that the rows are in the database, and not in its log
        await register(tmp_path, "a", *(f"more-{number}" for number in range(40)))
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            await peer.call("registry.register", name="a", host="h", port=1, replace=True)
            await peer.call("registry.register", name="b", host="h", port=1)
            before = await peer.names()
            spoil(tmp_path)
            for _ in range(2):
                error = await peer.error("registry.register", name="c", host="h", port=1)
                assert error["code"] == STORAGE_FAILED
                assert "another program" in str(error["message"])
                assert "trio-registry export" in str(error["message"])
            assert await peer.names() == before


@pytest.mark.parametrize(
    "statement", ["PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(FULL)"]
)
async def test_what_sqlite_itself_does_to_the_files_disturbs_nothing(
    tmp_path: Path, statement: str
) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            for number in range(30):
                await peer.call("registry.register", name=f"n{number}", host="h", port=1)
            for number in range(29):
                await peer.call("registry.delete", name=f"n{number}")
            for _ in range(2):
                with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
                    connection.execute(statement)
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                await peer.call("registry.register", name="after", host="h", port=1)
            await server.kill()
    assert [row["name"] for row in stored_rows(tmp_path)] == ["after", "n29"]


async def test_a_second_name_of_the_database_is_refused(tmp_path: Path) -> None:
    await register(tmp_path, "a")
    other = tmp_path / "other"
    other.mkdir()
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS):
            (other / "registry.db").hardlink_to(tmp_path / "registry.db")
            error = await refused_start(other)
            assert "hard link" in error
            assert "find DIRECTORY -samefile" in error
    assert "hard link" in await refused_start(tmp_path)
    (other / "registry.db").unlink()
    assert await names_in(tmp_path) == ["a"]


def root_pages(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))


def replace_page(path: Path, number: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((number - 1) * 4096)
        file.write(content.ljust(4096, b"\0"))


NO_ROWS = b"\x0d" + b"\0\0" * 2 + b"\x10\0" + b"\0"
"""The head of a page that is the whole of an empty table."""


@pytest.mark.parametrize(
    ("table", "content"), [("backends", b""), ("backends", NO_ROWS), ("changes", b"")]
)
async def test_a_damaged_database_is_left_alone(tmp_path: Path, table: str, content: bytes) -> None:
    await register(tmp_path, "a", "b")
    path = tmp_path / "registry.db"
    replace_page(path, root_pages(path)[table], content)
    damaged = path.read_bytes()
    error = await refused_start(tmp_path)
    assert "is damaged" in error
    assert "backup" in error
    assert ".recover" in error
    assert path.read_bytes() == damaged


DIE_HALF_WAY = """
import functools, os, sqlite3

class DyingConnection(sqlite3.Connection):
    def backup(self, target, **named):
        super().backup(target, pages=1, progress=lambda *_: os._exit(9))

sqlite3.connect = functools.partial(sqlite3.connect, factory=DyingConnection)
"""


async def test_a_kill_in_the_middle_of_the_copy_leaves_no_half_of_it(tmp_path: Path) -> None:
    write_original(tmp_path, ROWS)
    paths = (f"--db-path={tmp_path / 'registry.db'}", f"--config={tmp_path / 'b.toml'}")
    with trio.fail_after(30):
        died = await run_command("serve", *paths, command=with_prelude(DIE_HALF_WAY))
    assert died.returncode == 9, died.stderr
    assert "registry.db.original" not in copies(tmp_path)
    assert len(await names_in(tmp_path)) == len(ROWS)
    assert copies(tmp_path) == ["registry.db.original"]
    assert original_rows(tmp_path / "registry.db.original") == ROWS


@pytest.mark.parametrize(
    "content", [b"hello\n", b"1\nmany\n", b"1\n" + b"9" * 40, b"\xff\xfe", b"-1\n2\n", b"1 2\n"]
)
async def test_nonsense_in_the_lock_file_is_named(tmp_path: Path, content: bytes) -> None:
    await register(tmp_path, "a")
    lock = tmp_path / "registry.db.lock"
    lock.write_bytes(content)
    error = await refused_start(tmp_path)
    assert f"lock file {lock} is damaged" in error
    assert "remove it" in error
    assert lock.read_bytes() == content
    lock.unlink()
    assert await names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("content", [b"", b"12\n", b"12", b"\n1\n5\n1\n", b"\0" * 9, b"7\n1\n\0"])
async def test_what_a_registry_or_a_power_cut_left_in_the_lock_file_is_fine(
    tmp_path: Path, content: bytes
) -> None:
    await register(tmp_path, "a")
    (tmp_path / "registry.db.lock").write_bytes(content)
    assert await names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("suffix", ["", ".lock"])
async def test_a_pipe_in_the_place_of_a_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"registry.db{suffix}"
    os.mkfifo(path)
    error = await refused_start(tmp_path)
    assert f"{path} is not a regular file" in error


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def without_tables(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE something (else_); DROP TABLE something")


@pytest.mark.parametrize("lose", [removed, emptied, without_tables])
async def test_a_lost_database_is_not_replaced_by_an_empty_one(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    await register(tmp_path, "a")
    path = tmp_path / "registry.db"
    lose(path)
    error = await refused_start(tmp_path)
    assert "was at revision 1" in error
    assert "--start-empty" in error
    assert path.exists() == (lose is not removed)
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS, "--start-empty") as server:
            async with dial(server.url) as peer:
                assert await peer.names() == []
                event = await peer.call("registry.register", name="b", host="h", port=1)
                revision = event["revision"]
                assert isinstance(revision, int)
                assert revision > 2
            assert "starts empty" in server.log
            assert "older copy" not in server.log
    assert await names_in(tmp_path, "--start-empty") == ["b"]


async def test_a_log_without_its_database_is_not_thrown_away(tmp_path: Path) -> None:
    log = tmp_path / "registry.db-wal"
    log.write_bytes(b"precious")
    assert "its log still exists" in await refused_start(tmp_path)
    assert log.read_bytes() == b"precious"


@pytest.mark.parametrize("is_adopted", [True, False])
async def test_an_open_database_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_adopted: bool
) -> None:
    # Some builds of SQLite do not wait unless they are told to.
    connect = sqlite3.connect

    def hasty(path: str) -> sqlite3.Connection:
        connection = connect(path, check_same_thread=False)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", lambda path, **_: hasty(path))
    if is_adopted:
        write_original(tmp_path, ROWS)
    async with open_store(tmp_path / "registry.db") as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
