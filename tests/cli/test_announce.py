"""`trio-registry announce`: real commands, registered for as long as they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import WebSocketRequest, serve_websocket

from tests.cli.running import Lines, on_own_terminal, run, running, terminal
from tests.e2e.harness import (
    COMMAND,
    Peer,
    clean_environment,
    dial,
    eventually,
    running_registry,
    with_prelude,
)

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = "ws://127.0.0.1:1"
# Runs until its standard input ends, and then ends with status 7.
UNTIL_END = ("sh", "-c", "echo runs; read line; exit 7")
# Says which signals come, until SIGTERM ends it with status 42.
REPORTER = """
import signal, sys, time
def report(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(42)
for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, name), report)
print("ready", flush=True)
while True:
    time.sleep(1)
"""


def announce(name: str, *command: str) -> tuple[str, ...]:
    return ("announce", f"--name={name}", "--port=5001", "--", *command)


async def is_state(peer: Peer, name: str, *, active: bool) -> bool:
    backend = await peer.get(name)
    return backend is not None and backend["is_active"] is active


async def is_pinged(peer: Peer, name: str) -> bool:
    backend = await peer.get(name)
    return backend is not None and "last_seen" in backend


async def test_it_is_registered_and_pinged_while_the_command_runs(url: str, tmp_path: Path) -> None:
    options = ("--host=::1", "--protocol=wss", "--description=d", "--namespace=n")
    arguments = ("announce", "--name=a", "--port=5001", *options, *UNTIL_END)
    with trio.fail_after(30):
        async with dial(url) as peer, running(url, tmp_path / "err", *arguments) as process:
            assert await Lines(process).next() == "runs"
            await eventually(partial(is_pinged, peer, "a"))
            backend = await peer.get("a")
            assert backend is not None
            stated = {
                "host": "::1",
                "port": 5001,
                "protocol": "wss",
                "description": "d",
                "namespace": "n",
                "source": "auto",
                "is_active": True,
            }
            assert backend.items() >= stated.items()
            assert process.stdin is not None
            await process.stdin.aclose()
            assert await process.wait() == 7
            assert await is_state(peer, "a", active=False)
    assert (tmp_path / "err").read_text().startswith("trio-registry announce: a is announced at")


async def test_signals_are_passed_on_and_the_exit_status_comes_back(
    url: str, tmp_path: Path
) -> None:
    arguments = announce("signals", sys.executable, "-c", REPORTER)
    with trio.fail_after(30):
        async with dial(url) as peer, running(url, tmp_path / "err", *arguments) as process:
            lines = Lines(process)
            assert await lines.next() == "ready"
            await eventually(partial(is_state, peer, "signals", active=True))
            for number in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"):
                process.send_signal(signal.Signals[number])
                assert await lines.next() == number
            assert await process.wait() == 42
            assert await is_state(peer, "signals", active=False)


async def test_a_command_that_a_signal_ends_gives_128_and_its_number(
    url: str, tmp_path: Path
) -> None:
    sleeper = ("sh", "-c", "echo runs; exec sleep 60")
    with trio.fail_after(30):
        async with running(url, tmp_path / "err", *announce("killed", *sleeper)) as process:
            assert await Lines(process).next() == "runs"
            process.terminate()
            assert await process.wait() == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
async def test_a_signal_for_the_whole_group_leaves_the_status_of_the_command(
    url: str, number: signal.Signals
) -> None:
    """As a service manager stops a unit: the command may end before its signal is passed on."""
    sleeper = ("sh", "-c", "echo runs; exec sleep 60")

    async def stopped_status() -> int:
        process = await trio.lowlevel.open_process(
            [*COMMAND, *announce("group", *sleeper)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=clean_environment(REGISTRY_URL=url),
        )
        assert await Lines(process).next() == "runs"
        os.killpg(process.pid, number)
        return await process.wait()

    with trio.fail_after(40):
        assert {await stopped_status() for _ in range(6)} == {128 + number}


async def test_what_the_parent_ignores_reaches_nobody(url: str) -> None:
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    prelude = "import signal as s\n" + "".join(f"s.signal(s.{n}, s.SIG_IGN)\n" for n in names)
    with trio.fail_after(20):
        done = await trio.run_process(
            [*with_prelude(prelude), *announce("deaf", "sh", "-c", "kill -TERM $$; exit 7")],
            check=False,
            env=clean_environment(REGISTRY_URL=url),
        )
    assert done.returncode == 7


async def test_a_registry_that_is_down_stops_nothing_and_is_found_when_it_comes(
    tmp_path: Path,
) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            assert await server.stop() == 0
        async with running(server.url, tmp_path / "err", *announce("early", *UNTIL_END)) as process:
            assert await Lines(process).next() == "runs"
            log = tmp_path / "err"
            await eventually(lambda: "early is not announced for now" in log.read_text())
            async with running_registry(tmp_path, port=server.port) as again:
                async with dial(again.url) as peer:
                    await eventually(partial(is_state, peer, "early", active=True), within=30)
                assert await again.stop() == 0
            # It is gone again, and that stops nothing either.
            await eventually(lambda: log.read_text().count("not announced for now") == 2)
            assert process.returncode is None
            assert process.stdin is not None
            await process.stdin.aclose()
            assert await process.wait() == 7
    assert log.read_text().count("not announced for now") == 2, "said once each time"


async def test_a_registry_that_freezes_stops_nothing(tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0]:  # connections are made, and nobody ever accepts them
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with trio.fail_after(20):
            async with running(url, tmp_path / "err", *announce("frozen", *UNTIL_END)) as process:
                assert await Lines(process).next() == "runs"
                assert process.stdin is not None
                await process.stdin.aclose()
                assert await process.wait() == 7


async def test_a_command_that_cannot_run_is_never_announced(url: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    done = await run(url, *announce("never", "no-such-command"))
    assert done.failed(127) == "cannot run no-such-command: there is no such command"
    assert "Permission denied" in (await run(url, *announce("never", str(plain)))).failed(126)
    plain.write_text("#!/no/such/interpreter\n")
    plain.chmod(0o755)
    assert "the interpreter that it names" in (
        await run(url, *announce("never", str(plain)))
    ).failed(126)
    async with dial(url) as peer:
        assert await peer.get("never") is None


async def test_a_wrong_command_line_runs_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for arguments, said in (
        (announce("a b", "touch", str(touched)), '--name is "a b": it must be a letter'),
        (("announce", "--name=a", "--port=1", "--host=http://h", "touch", str(touched)), "--host"),
        (("announce", "--name=a", "--port=1"), "Missing argument"),
        (("announce", "--port=1", "--", "touch", str(touched)), "Missing option '--name'"),
        (("announce", "--name=a", "--port=0", "--", "touch", str(touched)), "range"),
        (("announce", "--name=a", "--port=1", "--url=h", "touch", str(touched)), "WebSocket URL"),
    ):
        done = await run(NOWHERE, *arguments)
        assert done.status == 2
        assert said in done.err
    assert not touched.exists()


async def test_the_commands_own_options_need_no_dashes_before_it(url: str) -> None:
    done = await run(
        url, "announce", "--name=o", "--port=1", "printf", "--", "%s-%s", "--port", "x"
    )
    assert (done.status, done.out) == (0, "--port-x")


async def test_what_nohup_ignores_stays_ignored(url: str, tmp_path: Path) -> None:
    ask = "import signal; print(signal.getsignal(signal.SIGHUP).name)"
    inner = (*COMMAND, *announce("nohup", sys.executable, "-c", ask))
    with trio.fail_after(30):
        done = await trio.run_process(
            ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *inner],
            capture_stdout=True,
            capture_stderr=True,
            env=clean_environment(REGISTRY_URL=url),
        )
    assert done.stdout == b"SIG_IGN\n"


@pytest.mark.slow
async def test_a_command_that_outlives_its_supervisor_is_inactive_after_a_while(
    tmp_path: Path,
) -> None:
    """SIGKILL leaves no time to say goodbye: the command runs on, and nobody pings for it."""
    options = ("--name=orphan", "--port=1", "--stale-after=0.6")
    command = ("sh", "-c", "echo $$; read line")
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--stale-after=1", "--sweep-interval=0.2") as server:
            async with dial(server.url) as peer:
                arguments = ("announce", *options, "--", *command)
                async with running(server.url, tmp_path / "err", *arguments) as process:
                    child = int(await Lines(process).next())
                    await eventually(partial(is_pinged, peer, "orphan"))
                    process.kill()
                    assert await process.wait() == -signal.SIGKILL
                    os.kill(child, 0)  # it runs on
                    await eventually(partial(is_state, peer, "orphan", active=False))


async def test_what_a_registry_says_steers_no_terminal(tmp_path: Path) -> None:
    async def hang_up(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        await ws.aclose(1001, "going\x1b[2J away")

    async with trio.open_nursery() as nursery:
        ready = await nursery.start(serve_websocket, hang_up, "127.0.0.1", 0, None)
        url = f"ws://127.0.0.1:{ready.port}"
        with trio.fail_after(30):
            async with running(url, tmp_path / "err", *announce("x", *UNTIL_END)) as process:
                assert await Lines(process).next() == "runs"
                log = tmp_path / "err"
                await eventually(lambda: r"going\x1b[2J away" in log.read_text())
                assert process.stdin is not None
                await process.stdin.aclose()
                assert await process.wait() == 7
        nursery.cancel_scope.cancel()
    assert all(line.isprintable() for line in log.read_text().splitlines())


@pytest.mark.slow
async def test_ctrl_c_in_a_terminal_reaches_the_command_once(url: str) -> None:
    command = on_own_terminal(*COMMAND, *announce("tty", sys.executable, "-c", REPORTER))
    with terminal() as (person, program), trio.fail_after(30):
        process = await trio.lowlevel.open_process(
            [*command],
            stdin=program,
            stdout=program,
            stderr=program,
            start_new_session=True,
            env=clean_environment(REGISTRY_URL=url),
        )
        text = await shows(person, "ready")
        os.write(person, b"\x03")
        text += await shows(person, "SIGINT")
        process.terminate()  # it is passed on after all that came before it
        text += await shows(person, "SIGTERM")
        assert await process.wait() == 42
    assert text.count("SIGINT") == 1


async def shows(terminal_side: int, word: str) -> str:
    """Read what a terminal shows up to the end of the line that has a word."""
    text = ""
    while word not in text or not text.endswith("\n"):
        await trio.lowlevel.wait_readable(terminal_side)
        text += os.read(terminal_side, 65536).decode()
    return text
