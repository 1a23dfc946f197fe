"""Requests from bytes: whole, in pieces, one after the other, and malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.server.access_policy import Refusal
from plexus_registry.server.http import (
    HEAD_BYTES,
    HttpRequest,
    HttpResponse,
    RequestReader,
    encode_response,
    handshake_fault,
)
from tests.e2e.raw import HEAD

PLAIN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \xe9\r\n\r\n"


def read(*pieces: bytes) -> HttpRequest | Refusal | None:
    reader = RequestReader()
    for piece in pieces:
        reader.receive_data(piece)
        result = reader.next_request()
        if result is not None:
            return result
    return None


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"", 0),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length: 3\r\n", 3),
        (b"Transfer-Encoding: chunked\r\n", None),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", None),
    ],
)
def test_the_length_of_the_body_is_known_or_not(fields: bytes, length: int | None) -> None:
    request = read(b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\nabc")
    assert isinstance(request, HttpRequest)
    assert request.body_bytes == length


@pytest.mark.parametrize("at", range(8))
def test_a_body_comes_before_the_next_request(at: int) -> None:
    reader = RequestReader()
    reader.receive_data(
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n" + b"GET / HT"[:at]
    )
    assert isinstance(reader.next_request(), HttpRequest)
    assert reader.take_body(8) is None
    reader.receive_data(b"GET / HT"[at:] + PLAIN)
    assert reader.take_body(8) == b"GET / HT"
    request = reader.next_request()
    assert isinstance(request, HttpRequest)
    assert request.head.path == "/healthz"


@pytest.mark.parametrize("at", range(1, len(HEAD)))
def test_a_head_may_be_split_anywhere(at: int) -> None:
    reader = RequestReader()
    reader.receive_data(HEAD[:at])
    assert reader.next_request() is None
    assert not reader.is_empty
    reader.receive_data(HEAD[at:] + b"frame")
    request = reader.next_request()
    assert isinstance(request, HttpRequest)
    assert request.is_upgrade
    assert (request.raw, request.rest) == (HEAD, b"frame")
    assert handshake_fault(request) is None


def test_pipelined_requests_come_one_by_one() -> None:
    reader = RequestReader()
    reader.receive_data(PLAIN + PLAIN.replace(b"GET", b"HEAD") + HEAD + b"frame")
    requests = [
        request for _ in range(3) if isinstance(request := reader.next_request(), HttpRequest)
    ]
    methods = [(each.head.method, each.head.path, each.is_upgrade) for each in requests]
    assert methods == [("GET", "/healthz", False), ("HEAD", "/healthz", False), ("GET", "/", True)]
    assert not any(each.is_last for each in requests)
    assert (requests[2].raw, requests[2].rest) == (HEAD, b"frame")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n",
    ],
)
def test_some_requests_are_the_last_of_their_connection(head: bytes) -> None:
    request = read(head)
    assert isinstance(request, HttpRequest)
    assert request.is_last


def test_a_head_has_a_largest_size() -> None:
    start, end = b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"\r\n\r\n"
    room = HEAD_BYTES - len(start) - len(end)
    assert isinstance(read(start + b"x" * room + end), HttpRequest)
    for more in (start + b"x" * (room + 1) + end, start + b"x" * (room + 40)):
        refusal = read(more)
        assert isinstance(refusal, Refusal)
        assert refusal.status == 431


@given(pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=20))
def test_whatever_comes_is_a_request_or_refused_or_not_complete(pieces: list[bytes]) -> None:
    result = read(*pieces)
    if isinstance(result, Refusal):
        assert 400 <= result.status <= 505
        assert result.text.isprintable()


FAULTS = {
    b"HTTP/1.1": (b"HTTP/1.0", 400),
    b"Connection: Upgrade": (b"Connection: keep-alive", 400),
    b"Version: 13": (b"Version: 8", 426),
    b"Sec-WebSocket-Key": (b"Sec-WebSocket-Kay", 400),
    b"Host: localhost": (b"Host: localhost\r\nContent-Length: 1", 400),
    b"localhost": (b"localhost\xff", 400),
    b"Key: ": (b"Protocol: \xff\r\nSec-WebSocket-Key: ", 400),
    b"dGhlIHNhbXBsZSBub25jZQ==": (b"dGhlIHNhbXBsZSBub25jZQ", 400),
    b"dGhlIHNhbXBsZSBub25j": (b"dGhlIHNhbXBsZSBub25jdGhl", 400),
    b"dGhlIHNhbXBsZSBub25jZQ": (b"dGhlIHNhbXBsZSBub25jZ", 400),
    b"dGhlIHNh": (b"dGhl_HNh", 400),
    b"Upgrade: websocket": (b"Upgrade: foo, websocket", 400),
    b"Connection: Up": (b"Upgrade: h2c\r\nConnection: Up", 400),
}


def test_a_handshake_with_all_its_fields_has_no_fault() -> None:
    for key in (b"dGhlIHNhbXBsZSBub25jZQ==", b"+/+/+/+/+/+/+/+/+/+/+w==", b"A" * 22 + b"=="):
        request = read(HEAD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", key))
        assert isinstance(request, HttpRequest)
        assert handshake_fault(request) is None


@pytest.mark.parametrize("part", FAULTS)
def test_what_is_wrong_with_a_handshake_is_said(part: bytes) -> None:
    other, status = FAULTS[part]
    request = read(HEAD.replace(part, other))
    assert isinstance(request, HttpRequest)
    fault = handshake_fault(request)
    assert fault is not None
    assert fault.status == status
    assert "handshake" in fault.text


def test_what_cannot_be_read_is_not_repeated() -> None:
    refusal = read(b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization : Bearer secret\r\n\r\n")
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400
    assert "secret" not in refusal.text


def test_an_answer_to_head_is_that_to_get_without_its_body() -> None:
    answer = HttpResponse(status=200, body="hé\n")
    whole = encode_response(answer, is_last=False)
    head, _, body = whole.partition(b"\r\n\r\n")
    assert body == "hé\n".encode()
    assert b"Content-Length: 4" in head
    assert b"nosniff" in head
    assert b"Connection" not in head
    bare = encode_response(answer, is_last=True, without_body=True)
    assert bare.endswith(b"\r\nConnection: close\r\n\r\n")
