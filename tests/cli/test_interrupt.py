"""Ctrl-C at any moment of any verb: exit status 130, no traceback, nothing half done."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.cli.running import succeed
from tests.e2e.harness import run_command, with_prelude

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable

INTERRUPTED = 130
# Runs the command, and sends it SIGINT at the n-th call of a Python function, counted from the
# first call of one function.
INTERRUPT_AT_CALL = """
import os, pathlib, runpy, signal, sys
marker, first, moment = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
calls = 0

def count(frame, event, argument):
    global calls
    code = frame.f_code
    if event != "call" or not (calls or f"{code.co_filename}:{code.co_name}".endswith(first)):
        return
    calls += 1
    if calls == moment:
        sys.setprofile(None)
        pathlib.Path(marker).touch()
        os.kill(os.getpid(), signal.SIGINT)

sys.setprofile(count)
runpy.run_module("plexus_registry", run_name="__main__", alter_sys=True)
"""
FIRST = "plexus_registry/cli/__init__.py:<module>"
MOMENTS = (1, 2_000, 20_000, 50_000)


def interrupting(marker: Path, first: str, moment: int) -> tuple[str, ...]:
    # Where its imports are to be interrupted, too, `env` makes it a new interpreter.
    fresh = ("env",) if first == FIRST else ()
    return (*fresh, sys.executable, "-c", INTERRUPT_AT_CALL, str(marker), first, str(moment))


async def interrupted(
    folder: Path, moment: int, *arguments: str, url: str, first: str = FIRST
) -> tuple[subprocess.CompletedProcess[bytes], bool]:
    """Run the command, and interrupt it; tell how it ended, and whether the moment came."""
    marker = folder / f"came-{moment}"
    command = interrupting(marker, first, moment)
    done = await run_command(*arguments, command=command, env={"REGISTRY_URL": url})
    assert b"Traceback" not in done.stderr, (moment, done.stderr.decode())
    assert b"KeyboardInterrupt" not in done.stderr, (moment, done.stderr.decode())
    assert b"Aborted" not in done.stderr, moment
    came = marker.exists()
    assert (done.returncode == INTERRUPTED) is came, (moment, came, done)
    return done, came


async def moments_that_came(
    folder: Path, moments: Iterable[int], *arguments: str, url: str, first: str = FIRST
) -> set[int]:
    """Interrupt the command at each moment, two at a time."""
    found: set[int] = set()
    limit = trio.CapacityLimiter(2)

    async def interrupt(moment: int) -> None:
        async with limit:
            filled = [each.format(folder=folder, moment=moment) for each in arguments]
            if (await interrupted(folder, moment, *filled, url=url, first=first))[1]:
                found.add(moment)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for moment in moments:
                nursery.start_soon(interrupt, moment)
    return found


ARGUMENTS: dict[str, tuple[str, ...]] = {
    "register": ("hub2", "127.0.0.1", "5001", "--replace"),
    "watch": (),
    "announce": ("--name=hub3", "--port=5003", "--", "sleep", "50"),
    "export": (),
    "init": ("{folder}/new-{moment}.toml",),
}
"""One verb that asks stands for all that ask in the same way."""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ARGUMENTS)
async def test_ctrl_c_ends_a_verb_at_any_moment(url: str, tmp_path: Path, verb: str) -> None:
    came = await moments_that_came(tmp_path, MOMENTS, verb, *ARGUMENTS[verb], url=url)
    assert came >= set(MOMENTS[: 3 if verb == "init" else 4]), came


@pytest.mark.slow
async def test_ctrl_c_while_the_command_of_announce_starts_is_not_lost(
    url: str, tmp_path: Path
) -> None:
    """The command would run for much longer than the test may take."""
    moments = range(1, 300, 40)
    arguments = ("announce", *ARGUMENTS["announce"])
    first = "cli/announce.py:supervise"
    assert await moments_that_came(tmp_path, moments, *arguments, url=url, first=first) == {
        *moments
    }


@pytest.mark.slow
async def test_ctrl_c_leaves_no_part_of_a_file(url: str, tmp_path: Path) -> None:
    await succeed(url, "init", str(tmp_path / "whole.toml"))
    whole = (tmp_path / "whole.toml").read_bytes()
    moments = range(1, 120, 15)
    first = "cli/offline.py:_write_new"
    came = await moments_that_came(
        tmp_path, moments, "init", ARGUMENTS["init"][0], url=url, first=first
    )
    assert came == {*moments}
    files = [path for moment in moments if (path := tmp_path / f"new-{moment}.toml").exists()]
    assert {path.read_bytes() for path in files} == {whole}
    assert len(files) < len(moments)


@pytest.mark.slow
async def test_ctrl_c_ends_a_start_at_any_moment_and_a_registry_that_is_ready_in_order(
    tmp_path: Path,
) -> None:
    ends: dict[tuple[str, int], tuple[int, bool]] = {}
    limit = trio.CapacityLimiter(2)

    async def interrupt(first: str, moment: int) -> None:
        folder = tmp_path / f"{first.rpartition(':')[2]}-{moment}"
        folder.mkdir()
        paths = (f"--db-path={folder / 'registry.db'}", f"--config={folder / 'backends.toml'}")
        command = interrupting(folder / "came", first, moment)
        async with limit:
            done = await run_command("serve", "--port=0", *paths, command=command)
        assert b"Traceback" not in done.stderr, (first, moment, done.stderr.decode())
        ends[first, moment] = done.returncode, b" ready at " in done.stdout

    starting = [(FIRST, 1), (FIRST, 30_000), (FIRST, 100_000)]
    starting += [("app.py:serve_to_the_end", moment) for moment in (1, 300, 1_500)]
    ready = [("app.py:start_up_line", moment) for moment in (1, 10)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for first, moment in starting + ready:
                nursery.start_soon(interrupt, first, moment)
    expected = dict.fromkeys(starting, (INTERRUPTED, False)) | dict.fromkeys(ready, (0, True))
    assert ends == expected


async def test_ctrl_c_that_is_ignored_stays_so(url: str) -> None:
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    hit = "import atexit, os; atexit.register(os.kill, os.getpid(), 2)"
    done = await run_command("completion", "bash", command=with_prelude(f"{ignoring}; {hit}"))
    assert done.returncode == 0


def test_the_console_script_is_the_one_that_handles_ctrl_c() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"trio-registry": "plexus_registry.__main__:main"}
