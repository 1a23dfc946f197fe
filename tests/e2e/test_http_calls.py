"""Calls over plain HTTP: curl, hostile requests, tokens and foreign pages, and Prometheus."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from plexus_registry.rules.events import ChangeHistory
from plexus_registry.settings import Settings
from tests.e2e.harness import dial, eventually, running_registry, shared_registry
from tests.e2e.pages import blocks, commands, comparable, page
from tests.e2e.prometheus import get, needs_prometheus, running_prometheus
from tests.e2e.raw import Reply, WebSocket, wire_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.pages import Command

TOKEN, READ_TOKEN = "s3cret-s3cret-s3cret", "l00k-l00k-l00k-l00k"
CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed")
LIST = '{"jsonrpc":"2.0","id":1,"method":"registry.list"}'


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--no-auto-register", "--max-batch=20", "--max-message-bytes=20000")
    with shared_registry(folder, *options) as url:
        yield int(url.rpartition(":")[2])


async def post(
    wire: WebSocket, body: str | bytes, *, content_type: str = "application/json", **fields: str
) -> Reply:
    data = body.encode() if isinstance(body, str) else body
    sent = {"Host": "localhost", "Content-Type": content_type, **fields}
    sent.setdefault("Content-Length", str(len(data)))
    lines = ["POST / HTTP/1.1", *(f"{n.replace('_', '-')}: {v}" for n, v in sent.items()), "", ""]
    await wire.send("\r\n".join(lines).encode() + data)
    return await wire.reply()


async def call(wire: WebSocket, method: str, **params: object) -> dict[str, object]:
    """Call a method that must succeed, and give its result."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    reply = await post(wire, json.dumps(request))
    assert reply.status == 200
    result = object_in(reply)["result"]
    assert isinstance(result, dict)
    return result


def object_in(reply: Reply) -> dict[str, object]:
    assert reply.fields["content-type"] == "application/json"
    return msgspec.json.decode(reply.body, type=dict[str, object])


def names_in(reply: Reply) -> list[str]:
    backends = object_in(reply)["backends"]
    assert isinstance(backends, list)
    return sorted(each["name"] for each in backends)


# Reading.


async def test_the_backends_are_those_of_list_with_their_urls(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with dial(server.url) as peer, wire_to(server.port) as wire:
                await peer.call("registry.register", name="a", host="::1", port=1, namespace="n")
                await peer.call("registry.register", name="b", host="h", port=2, protocol="wss")
                await peer.call("registry.deregister", name="b")
                reply = await wire.ask("/backends")
                expected = await peer.call("registry.list")
                assert isinstance(expected["backends"], list)
                for each in expected["backends"]:
                    each["url"] = "ws://[::1]:1"
                assert object_in(reply) == expected
                assert names_in(reply) == ["a"]
                for query, names in (
                    ("active=false", ["a", "b"]),
                    ("active=true", ["a"]),
                    ("namespace=n", ["a"]),
                    ("namespace=other", []),
                    ("state=deregistered", ["b"]),
                    ("state=deregistered&active=true", []),
                    ("active=false&namespace=n&access_token=x", ["a"]),
                ):
                    assert names_in(await wire.ask(f"/backends?{query}")) == names
                one = object_in(await wire.ask("/backends/b"))
                gone = {"type": "backend", "backend": await peer.get("b")}
                assert isinstance(gone["backend"], dict)
                gone["backend"]["url"] = "wss://h:2"
                assert one == gone
                whole = await wire.ask("/backends")
                bare = await wire.ask("/backends", method="HEAD")
                assert (bare.status, bare.body) == (200, "")
                assert bare.fields["content-length"] == whole.fields["content-length"]


@pytest.mark.parametrize("query", ["active=1", "state=dead", "activ=true", "active="])
async def test_a_wrong_filter_is_refused(port: int, query: str) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            reply = await wire.ask(f"/backends?{query}")
    assert reply.status == 400
    assert object_in(reply)["code"] == "invalid_params"


async def test_a_name_that_nobody_has_is_not_found(port: int) -> None:
    with trio.fail_after(30):
        for name in ("nobody", "%00%1b", "%ff", "<b>", "a/b", ""):
            async with wire_to(port) as wire:
                reply = await wire.ask(f"/backends/{name}")
            assert reply.status == 404
            assert object_in(reply)["code"] == "not_found"
            assert "\x1b" not in reply.body


async def test_an_answer_that_the_client_has_is_not_sent_again(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with wire_to(server.port) as wire:
                await call(wire, "registry.register", name="a", host="h", port=1)
                for path in ("/backends", "/backends/a"):
                    tag = (await wire.ask(path)).fields["etag"].upper()
                    for known in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
                        reply = await wire.ask(path, If_None_Match=known)
                        assert (reply.status, reply.body) == (304, "")
                        assert reply.fields["etag"].upper() == tag
                        assert "content-length" not in reply.fields
                    await call(wire, "registry.update", name="a", port=int(tag[3:-1]) + 5)
                    reply = await wire.ask(path, If_None_Match=tag)
                    assert reply.status == 200
                    assert reply.fields["etag"].upper() != tag


async def test_prometheus_finds_the_active_backends(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with wire_to(server.port) as wire:
                await call(wire, "registry.register", name="a", host="::1", port=1, namespace="n")
                await call(wire, "registry.register", name="gone", host="h", port=1)
                await call(wire, "registry.deregister", name="gone")
                reply = await wire.ask("/sd/prometheus")
    assert reply.fields["content-type"] == "application/json"
    assert json.loads(reply.body) == [
        {
            "targets": ["[::1]:1"],
            "labels": {
                "__meta_plexus_name": "a",
                "__meta_plexus_namespace": "n",
                "__meta_plexus_source": "manual",
            },
        }
    ]


# Calling.


async def test_methods_are_called_by_post(port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            made = await call(wire, "registry.register", name="p", host="h", port=1)
            assert made["type"] == "backend_registered"
            assert (await call(wire, "registry.ping", name="p"))["success"] is True
            answers = {"/backends/p": 200, "/healthz": 200}
            for path, status in answers.items():
                assert (await wire.ask(path)).status == status
            reply = await post(wire, "no json", content_type="Application/JSON; charset=utf-8")
            error = object_in(reply)["error"]
            assert reply.status == 200
            assert isinstance(error, dict)
            assert error["code"] == -32700
            await call(wire, "registry.delete", name="p")


async def test_the_history_names_who_posted(tmp_path: Path) -> None:
    body = {"name": "a", "host": "h", "port": 1}
    register = {"jsonrpc": "2.0", "id": 1, "method": "registry.register", "params": body}
    options = {"REGISTRY_TOKEN": TOKEN}
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register", env=options) as server:
            with_token = {"X_Plexus_API_Key": TOKEN}
            async with wire_to(server.port) as wire:
                await post(wire, json.dumps(register), **with_token)
                history = '{"jsonrpc":"2.0","id":2,"method":"registry.history"}'
                reply = object_in(await post(wire, history, **with_token))
            by = msgspec.convert(reply["result"], ChangeHistory).changes[0].by
            assert by is not None
            assert (by.method, by.token) == ("registry.register", "write")
            assert str(by.peer).startswith("127.0.0.1:")


async def test_a_batch_is_answered_and_limited_as_on_a_websocket(port: int) -> None:
    notification = '{"jsonrpc":"2.0","method":"registry.list"}'
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            reply = await post(wire, f"[{LIST},{notification},{LIST}]")
            assert [each["result"]["type"] for each in json.loads(reply.body)] == ["backends"] * 2
            reply = await post(wire, notification)
            assert (reply.status, reply.body) == (204, "")
            reply = await post(wire, f"[{','.join([LIST] * 21)}]")
            assert json.loads(reply.body)["error"]["code"] == -32010


async def test_a_long_batch_comes_whole(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with wire_to(server.port) as wire:
                claims = [
                    {
                        "jsonrpc": "2.0",
                        "id": each,
                        "method": "registry.register",
                        "params": {"name": f"b{each}", "host": "h", "port": 1},
                    }
                    for each in range(400)
                ]
                await post(wire, json.dumps(claims))
                reply = await post(wire, f"[{','.join([LIST] * 30)}]")
                answers = json.loads(reply.body)
                assert [len(each["result"]["backends"]) for each in answers] == [400] * 30
                assert len(names_in(await wire.ask("/backends"))) == 400
                health = json.loads((await wire.ask("/healthz")).body)
                assert health["refused"] == {}


@pytest.mark.parametrize(
    "method",
    ["registry.watch", "registry.unwatch", "_info", "registry_list", "{hub}.call"],
)
async def test_subscriptions_need_a_websocket(port: int, method: str) -> None:
    params = {"method": "registry.list"} if method == "{hub}.call" else {}
    method = method.format(hub=Settings().hub_namespace)
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            error = object_in(await post(wire, json.dumps(request)))["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["data"]["code"]) == (-32011, "websocket_needed")
    assert "WebSocket" in error["message"]


# Who may.


async def test_the_tokens_allow_what_they_allow_on_a_websocket(tmp_path: Path) -> None:
    read_token = tmp_path / "read"
    read_token.write_text(READ_TOKEN)
    read_token.chmod(0o600)
    options = (f"--read-token-file={read_token}",)
    register = (
        '{"jsonrpc":"2.0","id":1,"method":"registry.register",'
        '"params":{"name":"a","host":"h","port":1}}'
    )
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options, env={"REGISTRY_TOKEN": TOKEN}) as server:
            for path in ("/backends", "/backends/a", "/sd/prometheus"):
                for fields in ({}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}):
                    async with wire_to(server.port) as wire:
                        assert (await wire.ask(path, **fields)).status == 401
            async with wire_to(server.port) as wire:
                assert (await post(wire, LIST)).status == 401
            async with wire_to(server.port) as wire:
                reading = {"Authorization": f"Bearer {READ_TOKEN}"}
                assert (await wire.ask("/backends", **reading)).status == 200
                assert (await wire.ask("/sd/prometheus", **reading)).status == 200
                assert "result" in object_in(await post(wire, LIST, **reading))
                error = object_in(await post(wire, register, **reading))["error"]
                assert isinstance(error, dict)
                assert error["code"] == -32005
                writing = {"X_Plexus_API_Key": TOKEN}
                assert "result" in object_in(await post(wire, register, **writing))
                assert (await wire.ask("/backends/a", **reading)).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_page_cannot_post_without_asking_first(port: int, content_type: str) -> None:
    """A browser sends these types to any address; JSON only after a preflight, which fails."""
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            assert (await post(wire, LIST, content_type=content_type)).status == 415
            assert await wire.read_to_the_end() == b""
        async with wire_to(port) as wire:
            assert (await wire.ask("/", method="OPTIONS")).status == 405


async def test_other_origins_and_hosts_are_refused(port: int) -> None:
    with trio.fail_after(30):
        for fields, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Host": "evil.example"}, 421),
        ):
            async with wire_to(port) as wire:
                assert (await post(wire, LIST, **fields)).status == status
            for path in ("/backends", "/backends/a", "/sd/prometheus", "/metrics"):
                async with wire_to(port) as wire:
                    assert (await wire.ask(path, **fields)).status == status


# Hostile requests.


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Content_Length": "20001"}, 413),
        ({"Content_Length": "9" * 19}, 413),
        ({"Content_Length": "-1"}, 400),
        ({"Content_Length": "1x"}, 400),
        ({"Content_Length": "5\r\nContent-Length: 6"}, 400),
        ({"Content_Length": "5\r\nTransfer-Encoding: chunked"}, 411),
        ({"Content_Length": "5\r\nContent-Type: text/plain"}, 415),
    ],
)
async def test_a_body_without_a_good_length_is_refused(
    port: int, fields: dict[str, str], status: int
) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            fields = {name.replace("_", "-"): value for name, value in fields.items()}
            assert (await post(wire, "", **fields)).status == status
            await wire.stream.send_eof()
            assert await wire.read_to_the_end() == b""


async def test_a_post_without_a_length_is_refused(port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            reply = await wire.ask("/", method="POST", Content_Type="application/json")
    assert reply.status == 411


async def test_a_body_may_come_in_pieces_and_the_next_request_with_it(port: int) -> None:
    head = (
        f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(LIST)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            await wire.send(head.encode())
            assert (await wire.reply()).status == 100
            for byte in LIST.encode():
                await wire.send(bytes([byte]))
            assert (await wire.reply()).status == 200
            rest = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await wire.send(head.replace("Expect", "X-Not").encode() + LIST.encode() + rest)
            assert "result" in object_in(await wire.reply())
            assert "status" in object_in(await wire.reply())


async def test_a_body_that_ends_early_is_refused(port: int) -> None:
    with trio.fail_after(30):
        async with wire_to(port) as wire:
            await wire.send(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            await wire.stream.send_eof()
            assert (await wire.reply()).status == 400


async def test_a_request_in_hand_is_answered_at_the_shutdown(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            async with wire_to(server.port) as wire, wire_to(server.port) as half:
                await call(wire, "registry.register", name="a", host="h", port=1)
                # Half a body holds nothing up.
                await half.send(
                    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 100\r\n\r\n{"
                )
                with trio.fail_after(4):
                    assert await server.stop() == 0


# The manual's examples, and real consumers.


@needs_curl
async def test_the_examples_with_curl_answer_as_printed(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            for block in blocks("console", page("http")):
                for command in commands(block):
                    await _runs_as_printed(command, server.port)


async def _runs_as_printed(command: Command, port: int) -> None:
    line = command.line.replace("localhost:4444", f"127.0.0.1:{port}")
    result = await trio.run_process(["sh", "-c", line], capture_stdout=True)
    printed, expected = result.stdout.decode(), command.output
    if expected.startswith("{"):
        assert comparable(printed) == comparable(expected), line
    else:
        assert re.sub(r"\d{10}", "N", printed) == re.sub(r"\d{10}", "N", expected), line


@needs_prometheus
@pytest.mark.slow
async def test_prometheus_discovers_the_backends(tmp_path: Path) -> None:
    async with running_registry(tmp_path, "--no-auto-register") as server:
        async with wire_to(server.port) as wire:
            await call(wire, "registry.register", name="a", host="127.0.0.1", port=9)
        (config,) = (text for text in blocks("text", page("http")) if "http_sd_configs" in text)
        (tmp_path / "prometheus.yml").write_text(
            config.replace("localhost:4444", f"127.0.0.1:{server.port}")
        )
        async with running_prometheus(tmp_path) as url:
            found: list[str] = []

            async def is_discovered() -> bool:
                targets = await get(f"{url}/api/v1/targets")
                active = json.loads(targets)["data"]["activeTargets"] if targets else []
                found[:] = [each["labels"].get("backend", "") for each in active]
                return "a" in found

            await eventually(is_discovered, within=30)
