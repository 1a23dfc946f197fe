"""Starting: what is wrong is said in one clear line, and what is told is what happens."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from plexus_registry import Settings, __version__, app, open_registry, serve
from tests.e2e.harness import (
    COMMAND,
    run_command,
    running_registry,
    without_root_powers,
    writing_at_most,
)
from tests.e2e.raw import HEAD, TEXT, frame, wire_to

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


def error_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that says what is wrong, of a command that failed as it should."""
    text = done.stderr.decode()
    assert done.returncode not in (0, None), text
    assert "Traceback" not in text
    assert "stopped by a bug" not in text
    assert done.stdout == b""
    lines = [line for line in text.splitlines() if not line.startswith(("Usage: ", "Try "))]
    # The config file that is named need not exist, which is a warning. Changes are logged, too.
    errors = [line for line in lines if line and " WARNING " not in line and " INFO " not in line]
    assert len(errors) == 1, text
    assert errors[0].startswith("Error: ")
    return errors[0]


async def refused_start(
    folder: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    command: tuple[str, ...] = COMMAND,
) -> str:
    """Start on a folder's database, and give the line that says why it does not."""
    defaults = ("--port=0", f"--db-path={folder / 'registry.db'}", f"--config={folder / 'b.toml'}")
    with trio.fail_after(30):
        done = await run_command("serve", *defaults, *options, env=env, command=command)
    return error_of(done)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], ["--port", "70000", "65535"]),
        (["--port", "http"], ["--port", "'http'"]),
        (["--poll-interval", "0"], ["--poll-interval", "0", "above 0"]),
        (["--poll-interval", "nan"], ["--poll-interval", "nan"]),
        (["--sweep-interval", "inf"], ["--sweep-interval", "inf"]),
        (["--log-level", "nonsense"], ["--log-level", "'nonsense'", "debug"]),
        (["--hub-namespace", "registry"], ["--hub-namespace", "'registry'"]),
        (["--hub-namespace", ""], ["--hub-namespace"]),
        (["--nonsense"], ["--nonsense"]),
        (["--host", "192.0.2.1"], ["192.0.2.1"]),
        (["--backends", "dev"], ["REGISTRY_BACKENDS", '"dev"', "NAME=ws://HOST:PORT"]),
    ],
)
async def test_a_bad_flag_is_named(tmp_path: Path, options: list[str], said: list[str]) -> None:
    error = await refused_start(tmp_path, *options)
    assert [each for each in said if each not in error] == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("REGISTRY_BACKENDS", "dev=http://h:1", ['"http"', "ws"]),
        ("REGISTRY_BACKENDS", "dev=ws://h:70000", ["70000"]),
        ("REGISTRY_BACKENDS", "dev=ws://h:1,dev=ws://h:2", ['"dev"', "twice"]),
        ("RUST_LOG", "loud", ["'loud'", "debug"]),
    ],
)
async def test_a_bad_variable_is_named(
    tmp_path: Path, variable: str, value: str, said: list[str]
) -> None:
    error = await refused_start(tmp_path, env={variable: value})
    assert [each for each in [variable, *said] if each not in error] == []


async def test_a_bad_port_variable_is_named(tmp_path: Path) -> None:
    with trio.fail_after(20):
        done = await run_command(f"--db-path={tmp_path / 'r.db'}", env={"REGISTRY_PORT": "x"})
    assert "REGISTRY_PORT" in error_of(done)


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = await refused_start(tmp_path, f"--port={port}")
    assert f"port {port} on 127.0.0.1 is in use" in error


def text_file(path: Path) -> None:
    path.write_text("This is not a database.\n" * 100)


def damaged(path: Path) -> None:
    text_file(path)
    with path.open("r+b") as file:
        file.write(b"SQLite format 3\0")


def symlink_loop(path: Path) -> None:
    path.symlink_to(path)


def inside_a_file(path: Path) -> None:
    """What the folder should be is a file."""
    path.parent.rmdir()
    path.parent.write_text("")


def newer_layout(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")


def view(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW backends AS SELECT 1 AS name")


def not_readable(path: Path) -> None:
    path.touch(0o000)


def not_writable(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE something (else_); DROP TABLE something")
    path.chmod(0o400)


def folder_not_writable(path: Path) -> None:
    path.parent.chmod(0o500)


def folder_closed(path: Path) -> None:
    path.parent.chmod(0o000)


@contextmanager
def permissions_restored(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if folder.is_dir():
            folder.chmod(0o700)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (text_file, "not a database"),
        (damaged, "cannot open database"),
        (symlink_loop, "registry.db"),
        (inside_a_file, "cannot create the folder"),
        (newer_layout, "newer version"),
        (view, "registry.db"),
        (not_readable, "not readable"),
        (not_writable, "readonly"),
        (folder_not_writable, "Permission denied"),
        (folder_closed, "Permission denied"),
    ],
)
async def test_an_unusable_database_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with permissions_restored(folder):
        spoil(folder / "registry.db")
        error = await refused_start(folder, command=without_root_powers())
    assert said in error
    assert str(folder) in error


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE backends (host_and_port, weight)")
        connection.execute("INSERT INTO backends VALUES ('10.0.0.1:80', 5)")
    before = path.read_bytes()
    error = await refused_start(tmp_path)
    assert str(path) in error
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["port = 'abc'", "layer = 'nonsense'", "host = x'ff'"])
async def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            assert await server.stop() == 0
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection, connection:
        connection.execute(f"UPDATE backends SET {damage}")  # noqa: S608 - from the table above
    assert str(tmp_path / "registry.db") in await refused_start(tmp_path)


async def test_a_full_disk_at_the_start_is_named(tmp_path: Path) -> None:
    # A file size limit of nothing: every write fails, as on a full disk.
    error = await refused_start(tmp_path, command=writing_at_most(0))
    assert "registry.db" in error


async def test_a_database_is_held_by_one_registry(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.db").symlink_to(tmp_path / "registry.db")
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    with trio.fail_after(40):
        async with running_registry(tmp_path) as server:
            for path in (
                tmp_path / "registry.db",
                elsewhere / "link.db",
                tmp_path / "folder" / "registry.db",
            ):
                error = await refused_start(tmp_path, f"--db-path={path}")
                assert f"held by another registry (process {server.process.pid})" in error
            assert await server.stop() == 0


async def test_version_and_help() -> None:
    with trio.fail_after(20):
        version = await run_command("--version")
        overview = await run_command("--help")
        options = await run_command("serve", "--help")
    assert version.stdout.decode() == f"trio-registry {__version__}\n"
    assert all(each.returncode == 0 and not each.stderr for each in (version, overview, options))
    assert all(verb in overview.stdout.decode() for verb in ("serve", "export", "init"))
    said = options.stdout.decode()
    flags = ["--port", "--host", "--db-path", "--config", "--log-level", "--hub-namespace"]
    flags += ["--poll-interval", "--stale-after", "--sweep-interval", "--no-auto-register"]
    variables = ["PORT", "HOST", "DB_PATH", "CONFIG", "BACKENDS"]
    wanted = [*flags, *(f"REGISTRY_{name}" for name in variables), "RUST_LOG", "-p,", "-c,"]
    assert [each for each in wanted if each not in said] == []


async def test_a_client_that_comes_before_all_tasks_run_is_accepted_once_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_bound, may_go_on = trio.Event(), trio.Event()

    async def sweep_late(*_: object, task_status: trio.TaskStatus[None], **__: object) -> None:
        is_bound.set()
        await may_go_on.wait()
        task_status.started()

    monkeypatch.setattr(app, "sweep_forever", sweep_late)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = Settings(
        db_path=tmp_path / "r.db", config_path=tmp_path / "c.toml", port=port, probe_interval=0
    )
    with trio.fail_after(30):
        async with open_registry(settings) as registry, trio.open_nursery() as nursery:
            nursery.start_soon(serve, registry, settings)
            await is_bound.wait()
            async with wire_to(port) as wire:
                await wire.send(HEAD + frame(TEXT, b'{"jsonrpc":"2.0","id":1,"method":"x"}'))
                await wait_all_tasks_blocked(0.05)  # the server had its turn
                may_go_on.set()
                assert (await wire.reply()).status == 101
                assert b"-32601" in await wire.stream.receive_some()
            nursery.cancel_scope.cancel()


async def test_the_port_is_free_again_where_a_task_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(app, "sweep_forever", fail)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = Settings(
        db_path=tmp_path / "r.db", config_path=tmp_path / "c.toml", port=port, probe_interval=0
    )
    with trio.fail_after(30):
        async with open_registry(settings) as registry:
            with pytest.raises(ExceptionGroup):
                await serve(registry, settings)
            with closing(socket.create_server(("127.0.0.1", port))):
                pass
