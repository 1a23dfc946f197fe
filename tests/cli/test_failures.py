"""Registries that are not there, do not answer, are none, or want a token."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import WebSocketRequest, serve_websocket

from plexus_registry.cli import VERBS
from tests.cli.running import run, succeed
from tests.client.scripted import ORIGINAL_ANSWERS, ORIGINAL_REFUSAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

NOWHERE = "ws://127.0.0.1:1"
NO_BACKENDS = '{"jsonrpc":"2.0","id":1,"result":{"type":"backends","revision":1,"backends":[]}}'
ASKING = {
    "list": (),
    "get": ("n",),
    "register": ("n", "h", "1"),
    "update": ("n", "--port=1"),
    "delete": ("n",),
    "deregister": ("n",),
    "ping": ("n",),
    "check": ("n",),
    "reload": (),
    "watch": (),
    "log": (),
    "export": (),
}


def test_all_verbs_that_ask_are_tried() -> None:
    assert ASKING.keys() == VERBS.keys() - {
        "serve",
        "announce",
        "init",
        "config",
        "help",
        "completion",
    }


@asynccontextmanager
async def server(handle: Callable[[WebSocketRequest], Awaitable[None]]) -> AsyncIterator[str]:
    """Something on a port that does with a WebSocket request as it likes."""
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        yield f"ws://127.0.0.1:{ready.port}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("verb", ASKING)
async def test_no_connection_is_exit_status_3(verb: str) -> None:
    done = await run(NOWHERE, verb, *ASKING[verb])
    assert done.failed(3) == (
        f"cannot reach a registry at {NOWHERE}: connection refused;"
        " start one with trio-registry, or name another with --url"
    )


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_no_answer_is_exit_status_3_after_the_timeout(verb: str) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0]:  # connections are made, and nobody ever accepts them
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        done = await run(url, verb, "--timeout=0.2")
    assert done.failed(3).startswith(f"no answer from {url} within 0.2 s; ")


async def test_a_server_that_answers_nothing_sensible_is_said_to_be_none() -> None:
    async def talk_nonsense(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        await ws.send_message(NO_BACKENDS.replace("[]", "7"))
        await ws.aclose()

    async with server(talk_nonsense) as url:
        assert f"{url}: the answer to registry.list makes no sense" in (
            await run(url, "list")
        ).failed(3)


@asynccontextmanager
async def original(answer: str) -> AsyncIterator[str]:
    """A registry that answers one request as the original does."""

    async def handle(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        await ws.send_message(f'{{"jsonrpc":"2.0","id":1,"result":{answer}}}')
        await ws.aclose()

    async with server(handle) as url:
        yield url


SHOWN = {
    "list": "alpha  ws://127.0.0.1:5001",
    "get": "ws://127.0.0.1:5001",
    "register": "Registered alpha at ws://127.0.0.1:5001",
    "update": "Updated alpha at ws://127.0.0.1:5001",
    "delete": "Deleted n",
    "deregister": "Deregistered n: its entry stays, inactive",
    "ping": "Pinged n",
    "reload": "The config file states 1 backend: nothing changed",
}


@pytest.mark.parametrize("verb", ORIGINAL_ANSWERS)
async def test_a_verb_understands_the_answer_of_the_original(verb: str) -> None:
    async with original(ORIGINAL_ANSWERS[verb]) as url:
        assert SHOWN[verb] in (await succeed(url, verb, *ASKING[verb])).out


async def test_what_the_original_refuses_is_exit_status_1() -> None:
    async with original(ORIGINAL_REFUSAL) as url:
        said = (await run(url, "delete", "alpha")).failed(1)
    assert said == "Backend not found: alpha"


async def test_an_older_registry_says_no_to_what_it_does_not_know() -> None:
    async def know_nothing(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        error = '{"code":-32601,"message":"Method not found"}'
        await ws.send_message(f'{{"jsonrpc":"2.0","id":1,"error":{error}}}')
        await ws.aclose()

    async with server(know_nothing) as url:
        said = (await run(url, "reload")).failed(1)
    assert said == "Method not found: that registry is older than this command; update it"


async def test_a_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    async def want_token(request: WebSocketRequest) -> None:
        if (b"authorization", b"Bearer s3cret-s3cret-s3cret") not in request.headers:
            await request.reject(401)
            return
        ws = await request.accept()
        await ws.get_message()
        await ws.send_message(NO_BACKENDS)
        await ws.aclose()

    path = tmp_path / "token"
    path.write_text("s3cret-s3cret-s3cret\n")
    path.chmod(0o600)
    async with server(want_token) as url:
        refused = (await run(url, "list")).failed(3)
        assert refused.endswith("; give the token in REGISTRY_TOKEN or with --token-file")
        assert (await run(url, "list", REGISTRY_TOKEN="wrong-wrong-wrong-wrong")).status == 3  # noqa: S106
        for done in (
            await succeed(url, "list", "--json", REGISTRY_TOKEN="s3cret-s3cret-s3cret"),  # noqa: S106
            await succeed(url, "list", "--json", f"--token-file={path}"),
        ):
            assert done.document == {"type": "backends", "revision": 1, "backends": []}


async def test_a_token_that_is_none_is_said_before_anybody_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "token"
    said = (await run(NOWHERE, "list", f"--token-file={path}")).failed(2)
    assert said == f"cannot read the token in {path}: No such file or directory"
    path.write_bytes(b"s3cret-s3cret-s3cret")
    path.chmod(0o640)
    said = (await run(NOWHERE, "list", f"--token-file={path}")).failed(2)
    assert "mode is 0640; run: chmod 600" in said
    path.chmod(0o600)
    path.write_bytes(b"")
    assert "holds no token" in (await run(NOWHERE, "list", f"--token-file={path}")).failed(2)
    path.write_bytes(b"\xff")
    assert "it is not text" in (await run(NOWHERE, "list", f"--token-file={path}")).failed(2)
    said = (await run(NOWHERE, "list", REGISTRY_TOKEN="a\nb")).failed(2)  # noqa: S106
    assert said == "REGISTRY_TOKEN holds no token: a token is one line of ASCII"


async def test_a_registry_that_hangs_up_before_it_answers_is_no_answer() -> None:
    async def hang_up(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        await ws.aclose(1001, "going\x1b[2J away")

    async with server(hang_up) as url:
        assert r"closed with code 1001: going\x1b[2J away" in (await run(url, "list")).failed(3)


async def test_the_answer_counts_even_if_the_goodbye_does_not_come() -> None:
    gone = trio.Event()

    async def answer_and_freeze(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        await ws.send_message(NO_BACKENDS)
        with trio.CancelScope(shield=True):
            await gone.wait()

    async with server(answer_and_freeze) as url:
        assert (await run(url, "list", "--json", "--timeout=5")).status == 0
        gone.set()
