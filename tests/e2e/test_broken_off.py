"""Requests that are not finished get an error, and never a normal end of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.database import locked_database, stored_rows
from tests.e2e.harness import dial, eventually, running_registry, with_prelude
from tests.e2e.test_process import begin_stop, close_code

if TYPE_CHECKING:
    from pathlib import Path

INTERNAL = -32603
GOING_AWAY, INTERNAL_ERROR = 1001, 1011

NO_MEMORY = """
import plexus_registry.rpc.handler as r
real = r.{function}

def hungry(*args, **named):
    if "hungry" in repr(args):
        raise MemoryError
    return real(*args, **named)

r.{function} = hungry
"""
REQUEST = '{"jsonrpc":"2.0","id":"hungry","method":"registry.get","params":{"name":"hungry"}}'


@pytest.mark.parametrize(
    ("function", "frame"),
    [
        ("Handler._from_catalog", REQUEST),
        ("read_frame", REQUEST),
        ("read_frame", f"[{REQUEST}]"),
        ("result_response", REQUEST),
        ("result_response", f"[{REQUEST}]"),
    ],
)
async def test_no_memory_is_an_internal_error(tmp_path: Path, function: str, frame: str) -> None:
    command = with_prelude(NO_MEMORY.format(function=function))
    with trio.fail_after(30):
        async with running_registry(tmp_path, command=command) as server:
            async with dial(server.url) as peer, dial(server.url) as other:
                answer = await peer.exchange(frame)
                (answer,) = answer if isinstance(answer, list) else (answer,)
                assert isinstance(answer, dict)
                # Where the frame cannot even be read, nobody knows its id.
                assert answer["id"] == (None if function == "read_frame" else "hungry")
                assert answer["error"]["code"] == INTERNAL
                fails_alone = function == "result_response" and frame == REQUEST
                if fails_alone or function == "Handler._from_catalog":
                    await peer.names()
                else:
                    assert await close_code(peer) == INTERNAL_ERROR
                await other.names()
            assert "MemoryError" in server.log


@pytest.mark.parametrize("is_batch", [False, True])
async def test_a_second_signal_leaves_no_request_without_an_error(
    tmp_path: Path, *, is_batch: bool
) -> None:
    request = (
        '{"jsonrpc":"2.0","id":7,"method":"registry.register",'
        '"params":{"name":"a","host":"h","port":1}}'
    )
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                await peer.names()
                with locked_database(tmp_path):
                    await peer.ws.send_message(f"[{request}]" if is_batch else request)
                    await peer.ws.ping()
                    await begin_stop(server)
                    server.process.terminate()
                    await eventually(lambda: server.log.count("stopping") == 2)
                answer = await peer.receive()
                (answer,) = answer if isinstance(answer, list) else (answer,)
                assert isinstance(answer, dict)
                assert answer["id"] == 7
                if "error" in answer:
                    assert answer["error"]["code"] == INTERNAL
                    assert "unknown" in answer["error"]["message"]
                else:
                    assert [row["name"] for row in stored_rows(tmp_path)] == ["a"]
                assert await close_code(peer) == GOING_AWAY
            assert await server.process.wait() == 0
        assert "Traceback" not in server.log
