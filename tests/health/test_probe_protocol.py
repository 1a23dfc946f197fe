"""What a probe says and understands, in pieces of any size."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from plexus_registry.health.probe_protocol import (
    MAX_BYTES,
    CredentialError,
    ProbeProtocol,
    ProbeProtocolError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsproto.events import Event

KEY = bytes(range(16))
HASH = "0f1e2d3c4b5a6978"
INFO = {"backend": "hub2", "version": "1.2"}


def item(
    kind: str, *, subscription: object = 7, plexus_hash: object = HASH, **members: object
) -> str:
    metadata = {"provenance": [], "plexus_hash": plexus_hash, "timestamp": 1}
    result = {"type": kind, "metadata": metadata, **members}
    return json.dumps(
        {
            "jsonrpc": "2.0",
            "method": "result",
            "params": {"subscription": subscription, "result": result},
        }
    )


def info(content: object = INFO, **members: object) -> str:
    return item("data", content=content, **members)


ACKNOWLEDGED = '{"jsonrpc":"2.0","id":1,"result":7}'


class Server:
    """The other end, as a WebSocket library speaks."""

    def __init__(self, protocol: ProbeProtocol) -> None:
        self.protocol = protocol
        self.ws = WSConnection(ConnectionType.SERVER)
        self.heard: list[Event] = []
        self.hear(protocol.request)

    def hear(self, data: bytes) -> None:
        if data:
            self.ws.receive_data(data)
            self.heard += self.ws.events()

    def say(self, event: Event, *, cuts: Sequence[int] = ()) -> None:
        self.send(self.ws.send(event), cuts=cuts)

    def send(self, data: bytes, *, cuts: Sequence[int] = ()) -> None:
        places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        for start, end in pairwise(places):
            if end > start:
                self.hear(self.protocol.receive(data[start:end]))

    def texts(self) -> list[dict[str, object]]:
        return [json.loads(each.data) for each in self.heard if isinstance(each, TextMessage)]


def opened() -> tuple[ProbeProtocol, Server]:
    protocol = ProbeProtocol("127.0.0.1", 5001, KEY)
    server = Server(protocol)
    server.say(AcceptConnection())
    return protocol, server


def test_it_asks_as_a_client_does() -> None:
    protocol, server = opened()
    assert isinstance(server.heard[0], Request)
    assert (server.heard[0].host, server.heard[0].target) == ("127.0.0.1:5001", "/")
    assert protocol.is_open
    assert server.texts() == [{"jsonrpc": "2.0", "id": 1, "method": "_info", "params": None}]


@given(st.lists(st.integers(1, 600), max_size=8))
def test_the_answer_is_understood_in_pieces_of_any_size(cuts: list[int]) -> None:
    protocol = ProbeProtocol("h", 1, KEY)
    server = Server(protocol)
    server.say(AcceptConnection(), cuts=cuts)
    frames = [TextMessage(ACKNOWLEDGED), Ping(b"?"), TextMessage(info())]
    server.send(b"".join(map(server.ws.send, frames)), cuts=cuts)
    assert (protocol.name, protocol.version) == ("hub2", "1.2")
    assert protocol.schema_hash == HASH
    assert protocol.is_over
    assert any(isinstance(each, Pong) and each.payload == b"?" for each in server.heard)
    server.hear(protocol.goodbye)
    assert any(isinstance(each, CloseConnection) and each.code == 1000 for each in server.heard)


def test_a_message_in_fragments_and_in_binary_frames_is_understood() -> None:
    protocol, server = opened()
    text = info().encode()
    server.say(BytesMessage(text[:20], message_finished=False))
    server.say(BytesMessage(text[20:]))
    assert protocol.name is not None


@pytest.mark.parametrize("plexus_hash", [None, "", "0F1E2D3C4B5A6978", 7])
def test_a_hash_that_is_not_in_the_metadata_is_asked_for(plexus_hash: object) -> None:
    protocol, server = opened()
    server.say(TextMessage(info(plexus_hash=plexus_hash)))
    assert not protocol.is_over
    assert server.texts()[-1]["method"] == "hub2.hash"
    server.say(TextMessage(item("done")))
    assert not protocol.is_over
    server.say(TextMessage(item("data", subscription=8, content={"value": "a" * 16})))
    assert (protocol.is_over, protocol.schema_hash) == (True, "a" * 16)


@pytest.mark.parametrize(
    ("answer", "schema_hash"),
    [
        (item("data", content={"event": "hash", "value": "aaaaaaaaaaaaaaaa"}), "a" * 16),
        (item("data", content={"event": "hash", "value": "zz"}), None),
        (item("error", message="no"), None),
        (item("done", subscription=8), None),
        ('{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"Method not found"}}', None),
    ],
)
def test_a_hub_that_reports_no_valid_hash_is_there_all_the_same(
    answer: str, schema_hash: str | None
) -> None:
    protocol, server = opened()
    server.say(TextMessage(info(plexus_hash=None)))
    server.say(TextMessage(answer))
    assert protocol.is_over
    assert protocol.name is not None
    assert protocol.schema_hash == schema_hash


@pytest.mark.parametrize("version", [None, 3, "", "v" * 5000])
def test_an_invalid_version_is_left_out(version: object) -> None:
    protocol, server = opened()
    server.say(TextMessage(info({"backend": "hub2", "version": version})))
    assert (protocol.name, protocol.version) == ("hub2", None)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("hello", "not a JSON-RPC message"),
        ("[" * 100, "not a JSON-RPC message"),
        (info({}), "no name of its own"),
        (info([]), "no name of its own"),
        (info({"backend": 7}), "no name of its own"),
        (info({"backend": ""}), "no name of its own"),
        (item("done"), "the stream ends without data"),
        (item("error", message="go away\n"), r'refuses _info: "go away\\n"'),
        (
            '{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}',
            'refuses _info: "Method not found"',
        ),
        (
            '{"jsonrpc":"2.0","method":"_info","params":{"subscription":7,"error":"gone"}}',
            'refuses _info: "gone"',
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_reported(said: str, reason: str) -> None:
    _, server = opened()
    with pytest.raises(ProbeProtocolError, match=reason):
        server.say(TextMessage(said))


def test_a_connection_that_is_closed_is_reported_with_its_code() -> None:
    _, server = opened()
    with pytest.raises(ProbeProtocolError, match="with code 1008"):
        server.say(CloseConnection(1008))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"220 secret ESMTP\r\n\r\n", "^it answers, but does not speak HTTP$"),
        (b"HTTP/1.1 99 secret\r\n\r\n", "does not speak HTTP$"),
        (b"HTTP/1.1 500 secret\r\nX: secret\r\n\r\n", "HTTP status 500$"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HTTP status 200"),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://x\r\n\r\n", "302, and redirects are not followed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "a wrong key"),
    ],
)
def test_a_server_that_opens_no_websocket_is_not_a_hub(head: bytes, reason: str) -> None:
    protocol = ProbeProtocol("h", 1, KEY)
    with pytest.raises(ProbeProtocolError, match=reason):
        protocol.receive(head)
    assert protocol.goodbye == b""


@pytest.mark.parametrize("status", [401, 403])
def test_a_hub_that_wants_a_credential_is_reported(status: int) -> None:
    protocol = ProbeProtocol("h", 1, KEY)
    server = Server(protocol)
    with pytest.raises(CredentialError, match=str(status)):
        server.say(RejectConnection(status_code=status))


@pytest.mark.parametrize("frame", [b"\xf1\x00", b"\x81\x80", b"\x83\x00"])
def test_frames_that_no_server_sends_are_refused(frame: bytes) -> None:
    protocol, _ = opened()
    with pytest.raises(ProbeProtocolError, match="it breaks the WebSocket protocol: a frame"):
        protocol.receive(frame)


def send_without_end(protocol: ProbeProtocol, data: bytes) -> None:
    for _ in range(MAX_BYTES):
        protocol.receive(data)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_hub_that_sends_without_end_is_cut_off(*, is_open: bool) -> None:
    protocol = opened()[0] if is_open else ProbeProtocol("h", 1, KEY)
    flood = b"\x8a\x02hi" if is_open else b"HTTP/1.1 101 x\r\nX: y"
    with pytest.raises(ProbeProtocolError, match=f"more than {MAX_BYTES} bytes"):
        send_without_end(protocol, flood)


def test_an_announced_frame_without_end_is_cut_off() -> None:
    protocol, _ = opened()
    protocol.receive(b"\x81\x7f" + (2**40).to_bytes(8, "big"))
    with pytest.raises(ProbeProtocolError, match="more than"):
        send_without_end(protocol, b"x" * 1024)


@given(data=st.binary(max_size=200), is_open=st.booleans())
def test_any_bytes_at_all_are_understood_or_refused(*, data: bytes, is_open: bool) -> None:
    protocol = opened()[0] if is_open else ProbeProtocol("h", 1, KEY)
    with suppress(ProbeProtocolError, CredentialError):
        protocol.receive(data)


def test_a_name_that_is_too_long_to_be_asked_about() -> None:
    protocol, server = opened()
    server.say(TextMessage(info({"backend": "h" * 300}, plexus_hash=None)))
    assert server.texts()[-1]["method"] == "h" * 300 + ".hash"
    assert protocol.name is not None
