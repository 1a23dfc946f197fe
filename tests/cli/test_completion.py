"""Completion: the scripts, and what the shells get when they ask."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import trio

from plexus_registry.cli import VERBS, main
from plexus_registry.cli.offline import VARIABLE
from tests.cli.running import run
from tests.e2e.harness import clean_environment, run_command

NOWHERE = "ws://127.0.0.1:1"


async def completed(words: str) -> list[str]:
    """What the command offers for a command line that ends as given."""
    *before, _ = words.split(" ")
    env = {VARIABLE: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(before))}
    with trio.fail_after(20):
        done = await run_command(env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    return [line.removeprefix("plain,") for line in done.stdout.decode().split()]


async def test_verbs_are_offered_where_one_may_stand() -> None:
    assert await completed("trio-registry ") == [*VERBS]
    assert await completed("trio-registry re") == ["register", "reload"]
    assert await completed("trio-registry zzz") == []
    assert await completed("trio-registry zzz li") == [*await completed("trio-registry li")]


async def test_options_before_a_verb_are_those_of_serve_too() -> None:
    assert await completed("trio-registry --po") == ["--port", "--poll-interval"]
    assert await completed("trio-registry --ver") == ["--version"]
    assert await completed("trio-registry --port 1 --ho") == ["--host"]


async def test_what_a_verb_takes_is_offered_after_it() -> None:
    assert "--all" in await completed("trio-registry list --")
    assert await completed("trio-registry get --js") == ["--json"]
    assert await completed("trio-registry register a h 1 --protocol ") == ["ws", "wss"]
    assert await completed("trio-registry completion ") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_the_script_of_a_shell_is_printed(shell: str) -> None:
    done = await run(NOWHERE, "completion", shell)
    assert done.status == 0
    assert f"{VARIABLE}={shell}_complete" in done.out
    interpreter = shutil.which(shell)
    if interpreter is not None:
        with trio.fail_after(20):
            await trio.run_process([interpreter, "-n"], stdin=done.out.encode())


async def test_a_shell_that_is_not_known_is_wrong_usage() -> None:
    done = await run(NOWHERE, "completion", "tcsh")
    assert done.status == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.err


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell} here")


@needs("bash")
async def test_bash_completes_with_the_script() -> None:
    bash = str(shutil.which("bash"))
    script = """
        eval "$(trio-registry completion bash)"
        COMP_WORDS=(trio-registry ann) COMP_CWORD=1
        "$(complete -p trio-registry | sed 's/.*-F \\([^ ]*\\).*/\\1/')" trio-registry
        echo "${COMPREPLY[@]}"
    """
    folder = Path(sys.executable).parent
    env = clean_environment()
    env["PATH"] = f"{folder}:{env['PATH']}"
    with trio.fail_after(20):
        done = await trio.run_process([bash, "-c", script], capture_stdout=True, env=env)
    assert done.stdout == b"announce\n"


@needs("fish")
async def test_fish_completes_with_the_script(tmp_path: Path) -> None:
    fish = str(shutil.which("fish"))
    script = 'trio-registry completion fish | source; complete -C "trio-registry rel"'
    env = clean_environment(XDG_CONFIG_HOME=str(tmp_path))
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    with trio.fail_after(20):
        done = await trio.run_process([fish, "-c", script], capture_stdout=True, env=env)
    assert done.stdout.decode() == f"reload\t{VERBS['reload'].summary}\n"


def test_what_is_known_of_a_verb_is_what_it_says_of_itself() -> None:
    with main.make_context("trio-registry", ["--version"], resilient_parsing=True) as ctx:
        assert main.list_commands(ctx) == [*VERBS]
        for name, verb in VERBS.items():
            command = main.get_command(ctx, name)
            assert command is not None
            assert command.name == name or verb.attribute == "list_backends"
            assert (command.help or "").split("\n\n")[0].replace("\n", " ") == verb.summary


async def test_every_help_has_an_example_and_says_what_it_does() -> None:
    overview = await run(NOWHERE, "--help")
    for name, verb in VERBS.items():
        assert f"{name}{'*' if name == 'serve' else ''} " in overview.out
        done = await run(NOWHERE, name, "--help")
        assert (done.status, done.err) == (0, "")
        assert verb.summary in " ".join(done.out.split())
        assert name in ("serve", "completion") or "Example" in done.out
    lines = [" ".join(line.split()) for line in overview.out.splitlines()]
    for start in (
        "0 done",
        "1 the registry said no",
        "2 the command line",
        "3 no connection",
        "130 ",
    ):
        assert any(line.startswith(start) for line in lines)
