"""The client library: answers and refusals, calls at once, and connections that end."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from plexus_registry import Backend, RegistryUnavailableError, Reloaded, UrlError, announce, connect
from plexus_registry.client.connection import Backends, run_client
from plexus_registry.client.socket import MAX_QUEUED_BYTES, parse_url, shake_hands, without_secrets
from plexus_registry.rules import errors
from plexus_registry.websocket_frames import CloseCode, encode_close
from tests.client.scripted import (
    BACKEND,
    ORIGINAL_ANSWERS,
    ORIGINAL_REFUSAL,
    PINGED,
    URL,
    ScriptedPeer,
    encode,
    response,
    scripted,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from plexus_registry.client.connection import RegistryClient

KINDS = (
    errors.ParseError,
    errors.InvalidRequestError,
    errors.MethodNotFoundError,
    errors.InvalidParamsError,
    errors.InternalError,
    errors.NotFound,
    errors.NameTaken,
    errors.ConfigInvalid,
    errors.StorageFailed,
    errors.Unauthorized,
    errors.SubscriptionLimitError,
    errors.AnswerLimitError,
    errors.BatchTooLargeError,
    errors.WebSocketNeeded,
)


async def refused(code: int, **error: object) -> Exception:
    """What a client raises for an error object."""
    caught: list[Exception] = []

    async def ask(client: RegistryClient) -> None:
        try:
            await client.ping("hub")
        except errors.RegistryError as refusal:
            caught.append(refusal)

    async with scripted() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(ask, client)
        await peer.refuse(await peer.receive(), code, **error)
    return caught[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_code_raises_its_exception(
    kind: type[errors.MethodError | errors.ProtocolError],
) -> None:
    error = await refused(kind.code, data={"code": kind.word, "reason": "disk", "new": [1]})
    assert type(error) is kind
    assert str(error) == error.message == "no"
    assert error.data == {"code": kind.word, "reason": "disk", "new": [1]}
    if isinstance(error, errors.StorageFailed):
        assert error.reason == "disk"


def test_the_codes_that_are_tested_are_all() -> None:
    every = [*errors.MethodError.__subclasses__(), *errors.ProtocolError.__subclasses__()]
    assert set(every) == set(KINDS)


async def test_an_unknown_code_is_a_plain_method_error() -> None:
    error = await refused(-32099, data={"code": "too_new"})
    assert type(error) is errors.MethodError
    assert (error.code, error.word, str(error)) == (-32099, "too_new", "no")


@pytest.mark.parametrize("data", [None, [], "text", 1])
async def test_an_error_without_data_is_raised_too(data: object) -> None:
    error = await refused(-32001, data=data)
    assert isinstance(error, errors.NotFound)
    assert error.data == {}


async def test_the_holder_of_a_taken_name_is_a_backend() -> None:
    error = await refused(-32002, data={"code": "name_taken", "holder": BACKEND})
    assert isinstance(error, errors.NameTaken)
    assert isinstance(error.data["holder"], Backend)
    assert error.data["holder"].url == "ws://h:1"


async def test_a_holder_that_is_no_backend_stays_as_it_came() -> None:
    error = await refused(-32002, data={"holder": {"name": "hub"}})
    assert isinstance(error, errors.NameTaken)
    assert error.data["holder"] == {"name": "hub"}


async def test_an_error_without_id_belongs_to_the_oldest_call() -> None:
    async with scripted() as (client, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(errors.ParseError):
                await client.get("first")

        nursery.start_soon(ask)
        first = await peer.receive()
        nursery.start_soon(client.get, "second")
        second = await peer.receive()
        await peer.refuse({**first, "id": None}, -32700)
        await peer.answer(second, {"type": "backend", "backend": None})


STEP = {"step": "resolve", "ok": True, "ms": 0.5, "detail": "127.0.0.1", "later": 1}
FOUND: dict[str, object] = {"type": "backend", "backend": BACKEND}
LISTED = {"type": "backends", "revision": 5, "backends": [BACKEND]}
REGISTERED = {"type": "backend_registered", "revision": 7, "backend": BACKEND}
UPDATED = {**REGISTERED, "type": "backend_updated"}
DELETED = {"type": "backend_deleted", "revision": 8, "name": "a"}
DEREGISTERED = {"type": "backend_deregistered", "revision": 9, "name": "a"}
RELOADED = {"type": "reloaded", "revision": 10, "count": 1}
CALLS: dict[str, tuple[Callable[[RegistryClient], Awaitable[object]], object, object]] = {
    "get": (lambda c: c.get("hub"), {"name": "hub"}, FOUND),
    "list": (lambda c: c.list(), {"active_only": True}, LISTED),
    "update": (lambda c: c.update("a", host=""), {"name": "a", "host": ""}, UPDATED),
    "delete": (lambda c: c.delete("a"), {"name": "a"}, DELETED),
    "deregister": (lambda c: c.deregister("a"), {"name": "a"}, DEREGISTERED),
    "ping": (lambda c: c.ping("a"), {"name": "a"}, PINGED),
    "check": (
        lambda c: c.check("a"),
        {"name": "a"},
        {"type": "checked", "name": "a", "url": "ws://h:1", "ok": True, "steps": [STEP]}
        | {"backend": BACKEND},
    ),
    "reload": (lambda c: c.reload(), {}, RELOADED),
    "register": (
        lambda c: c.register("a", "h", 1),
        {
            "name": "a",
            "host": "h",
            "port": 1,
            "protocol": "ws",
            "source": "manual",
            "replace": False,
        },
        REGISTERED,
    ),
}


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_sends_what_was_given_and_ignores_what_it_does_not_know(method: str) -> None:
    call, params, result = CALLS[method]
    assert isinstance(result, dict)
    newer = {**result, "revision": 7, "later": {"x": 1}}
    if "backend" in result:
        newer["backend"] = {**BACKEND, "later": True}
    async with scripted() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(call, client)
        request = await peer.receive()
        assert request == {
            "jsonrpc": "2.0",
            "id": request["id"],
            "method": f"registry.{method}",
            "params": params,
        }
        await peer.answer(request, newer)


async def test_the_revision_of_answers_is_kept_the_highest_and_that_of_a_list_with_it() -> None:
    async with scripted() as (client, peer):
        lists: list[Backends] = []

        def revision() -> int | None:
            return client.revision

        async def ask(result: dict[str, object], call: Awaitable[object]) -> None:
            async with trio.open_nursery() as nursery:

                async def settle() -> None:
                    answer = await call
                    if isinstance(answer, Backends):
                        lists.append(answer)

                nursery.start_soon(settle)
                await peer.answer(await peer.receive(), result)

        await ask(FOUND, client.get("hub"))
        assert revision() is None
        await ask(REGISTERED, client.register("hub", "h", 1))
        assert revision() == 7
        await ask(LISTED, client.list())
        assert (revision(), lists[0].revision) == (7, 5), "an answer may come late"
        assert [backend.name for backend in lists[0]] == ["hub"]
        await ask(PINGED, client.ping("hub"))
        assert revision() == 7
        await ask(DELETED, client.delete("hub"))
        assert revision() == 8
        await ask(DEREGISTERED, client.deregister("hub"))
        assert revision() == 9
        await ask(RELOADED, client.reload())
        assert revision() == 10
        await ask({**PINGED, "revision": 11}, client.ping("hub"))
        assert revision() == 11
        await ask({"revision": 12}, client.call("registry.new", {}))
        await ask({"revision": "x"}, client.call("registry.new", {}))
        assert revision() == 12


async def answered(method: str, answer: str) -> tuple[object, int | None]:
    """What a call returns for an answer, or the refusal that it raises; and the revision."""
    call, _, _ = CALLS[method]
    got: list[object] = []

    async with scripted() as (client, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            try:
                got.append(await call(client))
            except errors.CallError as refusal:
                got.append(refusal)

        nursery.start_soon(ask)
        await peer.answer(await peer.receive(), msgspec.Raw(answer.encode()))
    return got[0], client.revision


@pytest.mark.parametrize("method", ORIGINAL_ANSWERS)
async def test_the_answers_of_the_original_count_without_a_revision(method: str) -> None:
    got, revision = await answered(method, ORIGINAL_ANSWERS[method])
    assert revision is None
    match method:
        case "list":
            assert isinstance(got, Backends)
            assert ([each.name for each in got], got.revision) == (["alpha"], 0)
        case "get" | "register" | "update":
            assert isinstance(got, Backend)
            assert (got.name, got.url) == ("alpha", "ws://127.0.0.1:5001")
        case "delete" | "deregister":
            assert got is None
        case "ping":
            assert got is True
        case _:
            assert got == Reloaded(revision=0, count=1)


@pytest.mark.parametrize("method", CALLS)
async def test_a_refusal_that_comes_as_an_event_is_raised(method: str) -> None:
    got, _ = await answered(method, ORIGINAL_REFUSAL)
    assert type(got) is errors.MethodError
    assert str(got) == "Backend not found: alpha"


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "backend", "backend": {"name": 1}},
        {"type": "backend"},
        {"type": "backends", "revision": 1, "backends": []},
        None,
    ],
)
async def test_an_answer_that_makes_no_sense_is_no_answer(answer: object) -> None:
    async with scripted() as (client, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(RegistryUnavailableError, match=r"answer to registry\.get makes no"):
                await client.get("hub")

        nursery.start_soon(ask)
        await peer.answer(await peer.receive(), answer)


async def test_parameters_that_are_no_json_are_refused_here() -> None:
    async with scripted() as (client, _):
        for value in (object(), "\ud800"):
            with pytest.raises(errors.InvalidParamsError, match="no JSON"):
                await client.call("registry.get", {"name": value})


@given(
    answers=st.lists(st.integers(0, 99), min_size=1, max_size=12),
    data=st.data(),
)
def test_calls_at_once_get_their_own_answers(answers: list[int], data: st.DataObject) -> None:
    """Whatever the order of the answers, and whoever gives up meanwhile."""
    order = data.draw(st.permutations(range(len(answers))))
    given_up = data.draw(st.sets(st.sampled_from(range(len(answers)))))
    got: dict[int, object] = {}

    async def run() -> None:
        async with scripted() as (client, peer), trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in answers]

            async def ask(index: int) -> None:
                with scopes[index]:
                    got[index] = await client.call("echo", {"value": answers[index]})

            for index in range(len(answers)):
                nursery.start_soon(ask, index)
            requests = [await peer.receive() for _ in answers]
            by_value: dict[int, list[dict[str, object]]] = {}
            for request in requests:
                params = request["params"]
                assert isinstance(params, dict)
                by_value.setdefault(params["value"], []).append(request)
            assert len({request["id"] for request in requests}) == len(answers)
            for index in given_up:
                scopes[index].cancel()
            await wait_all_tasks_blocked()
            await peer.send(
                *(
                    response(request, {"echo": answers[index]})
                    for index in order
                    for request in by_value.pop(answers[index], [])
                )
            )

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    kept = set(range(len(answers))) - given_up
    assert got == {index: {"echo": answers[index]} for index in kept}


@pytest.mark.parametrize("how", ["cut", "close", "garbage", "array"])
async def test_a_lost_connection_fails_whatever_waits_and_whatever_comes(how: str) -> None:
    failed: list[str] = []

    async def ask(client: RegistryClient) -> None:
        with pytest.raises(RegistryUnavailableError) as caught:
            await client.list()
        failed.append(str(caught.value))

    async with scripted() as (client, peer), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, client)
        for _ in range(3):
            await peer.receive()
        match how:
            case "cut":
                await trio.aclose_forcefully(peer.stream)
            case "close":
                await peer.close(1001, "the registry is stopping")
                assert isinstance(await peer.event(), CloseConnection)
            case "garbage":
                await peer.send("no JSON")
            case _:
                await peer.send("[]")
        await client.wait_lost()
        await wait_all_tasks_blocked()
        if how in {"garbage", "array"}:  # whoever talks nonsense is not left talking
            assert isinstance(await peer.event(), CloseConnection)
        await ask(client)
    assert len(failed) == 4
    assert len(set(failed)) == 1
    if how == "close":
        assert failed[0] == "the connection was closed with code 1001: the registry is stopping"


async def test_pings_of_the_peer_are_answered() -> None:
    async with scripted() as (_, peer):
        await peer.send_event(Ping(b"there?"))
        assert await peer.event() == Pong(b"there?")


@pytest.mark.parametrize("code", [1001, None])
async def test_a_goodbye_is_answered_with_its_own_code(code: int | None) -> None:
    async with scripted() as (client, peer):
        await peer.stream.send_all(encode_close(code or CloseCode.NO_STATUS))
        goodbye = await peer.event()
        assert isinstance(goodbye, CloseConnection)
        assert goodbye.code == (code or CloseCode.NO_STATUS)
        await client.wait_lost()


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\x81\x80\0\0\0\0", 1002), (b"\xf1\x00", 1002), (b"\x81\x01\xff", 1007)],
)
async def test_a_peer_that_breaks_the_protocol_is_told_so_and_left(data: bytes, code: int) -> None:
    async with scripted() as (client, peer):
        await peer.stream.send_all(data)
        goodbye = await peer.event()
        assert isinstance(goodbye, CloseConnection)
        assert goodbye.code == code
        await client.wait_lost()
        with pytest.raises(RegistryUnavailableError, match="connection lost: a "):
            await client.list()


async def test_each_frame_has_a_mask_of_its_own() -> None:
    """Which the peer cannot predict. Source: RFC 6455, section 10.3."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ScriptedPeer(theirs).accept)
        socket = await shake_hands(ours, parse_url(URL))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(socket.send_forever)
        for _ in range(4):
            socket.post("same")
        data = bytearray()
        while len(data) < 4 * 10:
            data += await theirs.receive_some()
        nursery.cancel_scope.cancel()
    assert len({bytes(data[start + 2 : start + 6]) for start in range(0, 40, 10)}) == 4


async def test_binary_messages_are_ignored() -> None:
    async with scripted() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.ping, "hub")
        request = await peer.receive()
        await peer.send_event(BytesMessage(b"binary"))
        await peer.answer(request, PINGED)


async def test_a_message_in_pieces_is_one() -> None:
    async with scripted() as (client, peer), trio.open_nursery() as nursery:
        got: list[object] = []

        async def ask() -> None:
            got.append(await client.call("x", {}))

        nursery.start_soon(ask)
        request = await peer.receive()
        data = peer.ws.send(TextMessage(response(request, "é" * 1000)))
        for index in range(len(data)):
            await peer.stream.send_all(data[index : index + 1])
    assert got == ["é" * 1000]


async def test_a_call_that_is_cancelled_while_it_is_sent_breaks_no_frame() -> None:
    async with scripted() as (client, peer):
        for _ in range(3):
            with trio.move_on_after(0):
                await client.call("given up", {"text": "x" * 100_000})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "kept", {})
            for _ in range(3):
                assert (await peer.receive())["method"] == "given up"
            request = await peer.receive()
            assert request["method"] == "kept"
            await peer.answer(request, None)


async def test_what_a_peer_does_not_read_is_not_kept_without_bounds() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    peer = ScriptedPeer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.accept)
        socket = await shake_hands(ours, parse_url(URL))
    chunk = encode("x" * 1_000_000)
    for _ in range(MAX_QUEUED_BYTES // 1_000_000 + 1):
        socket.post(chunk)
    with pytest.raises(RegistryUnavailableError, match="does not read"):
        socket.post(chunk)


@pytest.mark.parametrize("error", [ValueError(), ExceptionGroup("of the block", [ValueError()])])
async def test_the_blocks_own_error_comes_out_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        async with scripted():
            raise error
    if isinstance(error, ExceptionGroup):  # a cancelled nursery makes a copy of it
        assert caught.value.args == error.args
    else:
        assert caught.value is error


async def test_the_token_and_the_path_go_out_with_the_handshake() -> None:
    async with scripted(token="s3cret") as (_, peer):  # noqa: S106 - a test's
        assert peer.request is not None
        assert (b"authorization", b"Bearer s3cret") in peer.request.extra_headers
        assert (peer.request.host, peer.request.target) == ("registry:4445", "/path?query")


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost", "localhost:4445", "http://h", "ws://", "ws://:1", "ws://h:99999"),
        *("ws://h:x", "ws://[::1", "ws://h/a b", "ws://h/é", "ws://h/\n"),
    ],
)
async def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(UrlError, match=r"ws://127\.0\.0\.1:4445"):
        async with connect(url):
            pass


def test_the_parts_of_a_url() -> None:
    address = parse_url("ws://me:pw@[::1]:4445")
    assert (address.host, address.port, address.authority) == ("::1", 4445, "[::1]:4445")
    assert parse_url("wss://h").port == 443


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HTTP status 403"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak WebSocket"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "HTTP status 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP status 200"),
        (b"", "hung up"),
    ],
)
async def test_a_peer_that_is_no_registry_is_said_to_be_none(said: bytes, match: str) -> None:
    ours, theirs = memory_stream_pair()
    if said:
        await theirs.send_all(said)
    await theirs.send_eof()
    with pytest.raises(RegistryUnavailableError, match=match):
        await shake_hands(ours, parse_url(URL))


async def test_a_goodbye_is_waited_for_but_not_forever(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    peer = ScriptedPeer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.accept)
        socket = await shake_hands(ours, parse_url(URL))
    began = trio.current_time()
    async with run_client(socket):
        pass
    assert trio.current_time() - began == pytest.approx(1)
    assert isinstance(await peer.event(), CloseConnection)


async def test_a_peer_that_speaks_no_tls_is_said_in_the_words_of_tls() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    secured = trio.SSLStream(ours, ssl.create_default_context(), server_hostname="registry")
    with pytest.raises(RegistryUnavailableError, match="wrong version number"):
        await shake_hands(secured, parse_url("wss://registry:4445"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://h:1/path?access_token=secret", "ws://h:1/path"),
        ("ws://user:secret@h/?x", "ws://h/"),
        ("wss://h", "wss://h"),
        ("h?secret", "h"),
        ("ws://h#secret", "ws://h"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/?access_token=secret", "ws://u:secret@[::1]:x"])
async def test_an_error_shows_no_secret_of_the_url(url: str) -> None:
    with pytest.raises((RegistryUnavailableError, UrlError)) as raised:
        async with connect(url):
            pass
    assert "secret" not in str(raised.value)


async def test_a_keyword_argument_that_is_no_field_is_refused_here() -> None:
    async with scripted() as (client, _):
        with pytest.raises(TypeError, match="unexpected keyword argument 'descripton'"):
            await client.register("a", "h", 1, descripton="x")  # type: ignore[call-arg]  # a typo
        with pytest.raises(TypeError, match="unexpected keyword argument 'version'"):
            await client.update("a", version="x")  # type: ignore[call-arg]  # cannot be updated
    with pytest.raises(TypeError, match="unexpected keyword argument 'descripton'"):
        async with announce(URL, name="a", host="h", port=1, descripton="x"):  # type: ignore[call-arg]  # a typo
            raise AssertionError
