"""Taking over the original's database where something goes wrong half-way."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import dial, eventually, run_command, running_registry, with_prelude
from tests.e2e.test_adoption import (
    FROM_FILE,
    LAYOUT,
    OPTIONS,
    ROWS,
    as_shown,
    copies,
    insert,
    original_rows,
    shown_by,
    write_config,
    write_original,
)

if TYPE_CHECKING:
    from pathlib import Path


def write_uncheckpointed(folder: Path) -> None:
    """What the original leaves behind when it is killed: rows that are only in the -wal file."""
    source = folder / "running"
    source.mkdir()
    with closing(sqlite3.connect(source / "registry.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(LAYOUT)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with connection:
            insert(connection, ROWS[:3])
        for suffix in ("", "-wal"):
            shutil.copy(source / f"registry.db{suffix}", folder / f"registry.db{suffix}")
    assert (folder / "registry.db-wal").stat().st_size > 0


async def test_rows_that_are_only_in_the_write_ahead_log_are_kept(tmp_path: Path) -> None:
    write_uncheckpointed(tmp_path)
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            shown = await shown_by(server.url)
    assert shown == {str(each["name"]): as_shown(each) for each in ROWS[:3]}
    assert original_rows(tmp_path / "registry.db.original") == ROWS[:3]


DIE_AFTER_STEP = """
import functools, os, sqlite3
steps = {steps}
lasting = "COMMIT", "CREATE", "PRAGMA journal_mode=", "PRAGMA user_version ="

def step():
    global steps
    steps -= 1
    if steps == 0:
        os._exit(9)

class DyingConnection(sqlite3.Connection):
    def execute(self, sql, *rest):
        cursor = super().execute(sql, *rest)
        if sql.startswith(lasting) and not self.in_transaction:
            step()
        return cursor

    def backup(self, *args, **named):
        super().backup(*args, **named)
        step()

sqlite3.connect = functools.partial(sqlite3.connect, factory=DyingConnection)
"""
"""Dies once so many things reached the disk: the copy, a statement, a transaction."""


@pytest.mark.parametrize("steps", range(1, 8))
async def test_no_row_is_lost_where_the_first_start_is_killed(tmp_path: Path, steps: int) -> None:
    rows = [*ROWS[:3], *FROM_FILE]
    write_original(tmp_path, rows)
    write_config(tmp_path, "stated")
    dying = with_prelude(DIE_AFTER_STEP.format(steps=steps))
    paths = (f"--db-path={tmp_path / 'registry.db'}", f"--config={tmp_path / 'backends.toml'}")
    with trio.fail_after(30), socket.create_server(("127.0.0.1", 0)) as taken:
        # Where all steps are done it ends as well: the port is taken.
        port = f"--port={taken.getsockname()[1]}"
        died = await run_command("serve", port, *paths, *OPTIONS, command=dying)
        assert died.returncode in (1, 9), died.stderr
        async with running_registry(tmp_path, *OPTIONS) as server:
            shown = await shown_by(server.url)
    assert shown.keys() == {each["name"] for each in rows}
    assert shown["stated"]["host"] == "from.file"
    assert all(shown[str(each["name"])] == as_shown(each) for each in [*ROWS[:3], FROM_FILE[1]])
    assert any(original_rows(tmp_path / copy) == rows for copy in copies(tmp_path))


@pytest.mark.parametrize("steps", range(1, 6))
async def test_a_new_database_survives_a_kill_at_its_first_start(
    tmp_path: Path, steps: int
) -> None:
    dying = with_prelude(DIE_AFTER_STEP.format(steps=steps))
    with trio.fail_after(30), socket.create_server(("127.0.0.1", 0)) as taken:
        port = f"--port={taken.getsockname()[1]}"
        await run_command("serve", port, f"--db-path={tmp_path / 'registry.db'}", command=dying)
        async with running_registry(tmp_path) as server:
            assert (await shown_by(server.url)).keys() == {"plexus"}


async def test_an_invalid_config_file_at_the_first_start_costs_no_row(tmp_path: Path) -> None:
    write_original(tmp_path, FROM_FILE)
    write_config(tmp_path, "not a name")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await shown_by(server.url) == {
                str(each["name"]): as_shown(each) for each in FROM_FILE
            }
            # Once it is mended, it rules what it states, as it would have from the start.
            write_config(tmp_path, "stated")
            await eventually(lambda: "config file applied: 1 backends" in server.log)
            assert set(await peer.names()) == {"stated", "unstated"}
            stated = await peer.get("stated")
    assert stated is not None
    assert stated["host"] == "from.file"


async def test_a_missing_config_file_at_the_first_start_costs_no_row(tmp_path: Path) -> None:
    write_original(tmp_path, FROM_FILE)
    with trio.fail_after(30):
        async with running_registry(tmp_path, *OPTIONS) as server:
            await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server:
            assert await shown_by(server.url) == {
                str(each["name"]): as_shown(each) for each in FROM_FILE
            }
