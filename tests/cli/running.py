"""Running verbs of `trio-registry` as processes, on pipes and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tests.e2e.harness import (
    COMMAND,
    MAIN,
    Process,
    clean_environment,
    run_command,
    running_process,
)
from tests.fork_server import open_fork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

# Makes the terminal on standard input the controlling one, and becomes the command.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Done:
    """How a verb ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def document(self) -> dict[str, object]:
        """The one line of JSON that was printed."""
        assert self.out.count("\n") == 1, self.out
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def failed(self, status: int) -> str:
        """Assert that it failed with one line and without any output, and give the line."""
        assert self.status == status, self
        assert self.out == ""
        assert self.err.startswith("Error: ")
        assert self.err.count("\n") == 1
        assert self.err.isprintable() or self.err[:-1].isprintable()
        return self.err.removeprefix("Error: ").rstrip()


async def run(url: str, *arguments: str, **env: str) -> Done:
    """Run a verb against a registry, with its output on pipes."""
    with trio.fail_after(30):
        done = await run_command(*arguments, env={"REGISTRY_URL": url, **env})
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


async def succeed(url: str, *arguments: str, **env: str) -> Done:
    """Run a verb that must succeed and have nothing to complain about."""
    done = await run(url, *arguments, **env)
    assert (done.status, done.err) == (0, "")
    return done


@asynccontextmanager
async def running(url: str, log: Path, *arguments: str) -> AsyncIterator[Process]:
    """Start a verb that goes on, and kill it in the end if it still runs."""
    command, env = (*COMMAND, *arguments), {"REGISTRY_URL": url}
    async with running_process(command, log_path=log, stdin=subprocess.PIPE, env=env) as process:
        yield process


class Lines:
    """What a process prints, line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._stream = process.stdout
        self._text = b""

    async def next(self) -> str:
        while b"\n" not in self._text:
            data = await self._stream.receive_some()
            assert data, f"ended after {self._text!r}"
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the side of the person, and the side of the program."""
    person, program = pty.openpty()
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)


async def run_on_terminal(url: str, *arguments: str, **env: str) -> str:
    """Run a verb to its end with its output on a terminal, and give what that shows."""
    with terminal() as (person, program), trio.fail_after(30):
        environment = clean_environment(REGISTRY_URL=url, **env)
        async with open_fork(
            MAIN, arguments, env=environment, stdin=subprocess.PIPE, stdout=program, stderr=program
        ) as process:
            await process.wait()
        os.write(program, b"END")  # a terminal has no end of file
        text = b""
        while not text.endswith(b"END"):
            text += os.read(person, 65536)
    return text.removesuffix(b"END").decode().replace("\r\n", "\n")


def on_own_terminal(*command: str) -> tuple[str, ...]:
    """A command in the foreground of the terminal on its standard input; start a session, too."""
    return (sys.executable, "-c", TAKE_TERMINAL, *command)
