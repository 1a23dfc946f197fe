"""Our frames and those of wsproto are the same, in both roles and however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.frame_protocol import FrameProtocol, ParseFailed
from wsproto.frame_protocol import Opcode as TheirOpcode

from plexus_registry.websocket_frames import (
    MAX_CONTROL_BYTES,
    ClientHandshake,
    CloseCode,
    CloseFrame,
    FrameError,
    FrameReader,
    Opcode,
    PingFrame,
    PongFrame,
    apply_mask,
    encode_close,
    encode_frame,
    encode_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    Event: TypeAlias = str | bytes | PingFrame | PongFrame | CloseFrame

MASK = b"\x01\x80\xff\x00"
LENGTHS = (0, 1, 3, 4, 125, 126, 127, 65_535, 65_536, 70_001)
DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION)
SENDERS = pytest.mark.parametrize("from_client", [False, True], ids=["server", "client"])


def read_by_us(pieces: list[bytes], *, from_client: bool) -> tuple[list[Event], int | None]:
    """Return what is read, and the close code if the rest is refused."""
    reader = FrameReader(is_peer_client=from_client)
    events: list[Event] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.read()) is not None:
                events.append(event)
    except FrameError as error:
        return events, error.code
    return events, None


def read_by_them(pieces: list[bytes], *, from_client: bool) -> tuple[list[Event], int | None]:
    protocol = FrameProtocol(client=not from_client, extensions=[])
    events: list[Event] = []
    parts: list[str | bytes] = []
    try:
        for piece in pieces:
            protocol.receive_bytes(piece)
            for frame in protocol.received_frames():
                payload = frame.payload
                match frame.opcode:
                    case TheirOpcode.PING:
                        events.append(PingFrame(bytes(payload)))  # type: ignore[arg-type]  # bytes
                    case TheirOpcode.PONG:
                        events.append(PongFrame(bytes(payload)))  # type: ignore[arg-type]  # bytes
                    case TheirOpcode.CLOSE:
                        events.append(CloseFrame(*payload))
                    case _:
                        parts.append(payload)  # type: ignore[arg-type]  # text or bytes
                        if frame.message_finished:
                            empty = "" if isinstance(parts[0], str) else b""
                            events.append(empty.join(parts))  # type: ignore[arg-type]  # one kind
                            parts.clear()
    except ParseFailed as error:
        return events, int(error.code)
    return events, None


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def cuts() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 2**20), max_size=8)


def payloads() -> st.SearchStrategy[bytes]:
    """Mostly UTF-8, sometimes cut in the middle of a character, sometimes long."""
    texts = st.text(max_size=40).map(str.encode)
    long = st.sampled_from(LENGTHS).map(lambda size: b"x" * size)
    return st.one_of(texts, st.binary(max_size=8), long, st.just("aé".encode()[:2]))


@st.composite
def frames(draw: st.DrawFn, *, from_client: bool) -> bytes:
    """A whole frame, valid or not; its length is announced in one of three forms."""
    opcode = draw(st.one_of(st.sampled_from(Opcode), st.integers(0, 15)))
    is_control = opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG)
    payload = draw(payloads())
    if opcode == Opcode.CLOSE and draw(st.booleans()):
        payload = draw(close_codes()).to_bytes(2, "big") + payload
    if is_control and draw(st.integers(0, 9)):
        payload = payload[:MAX_CONTROL_BYTES]
    is_last = draw(st.booleans()) or (is_control and draw(st.integers(0, 9)) > 0)
    # One in ten is masked the wrong way round, and one in ten has a reserved bit.
    is_masked = from_client is (draw(st.integers(0, 9)) > 0)
    header = bytearray(encode_header(Opcode.TEXT, len(payload), is_masked=is_masked))
    header[0] = is_last << 7 | opcode
    if not draw(st.integers(0, 9)):
        header[0] |= draw(st.sampled_from([0x10, 0x20, 0x40]))
    if not draw(st.integers(0, 9)):
        form, size = draw(st.sampled_from([(126, 2), (127, 8)]))
        length = len(payload) % 2 ** (8 * size)
        header[1:] = bytes([is_masked << 7 | form]) + length.to_bytes(size, "big")
    return bytes(header) + (MASK + apply_mask(payload, MASK) if is_masked else payload)


def close_codes() -> st.SearchStrategy[int]:
    edges = (0, 999, 1000, 1004, 1005, 1006, 1013, 1014, 1015, 1016, 2999, 3000, 4999, 5000)
    return st.one_of(st.sampled_from(edges), st.integers(0, 2**16 - 1))


@st.composite
def valid_messages(draw: st.DrawFn) -> list[tuple[Opcode, bytes, bool]]:
    """Frames as a correct peer sends them: messages in parts, control frames between them."""
    sent: list[tuple[Opcode, bytes, bool]] = []
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
        whole = draw(st.text(max_size=60)).encode() * draw(st.sampled_from([1, 1, 1, 3000]))
        parts = pieces_of(whole, draw(st.lists(st.integers(0, 2**20), max_size=3)))
        for number, part in enumerate(parts):
            kind = opcode if number == 0 else Opcode.CONTINUATION
            sent.append((kind, part, number == len(parts) - 1))
            if draw(st.booleans()):
                control = draw(st.sampled_from([Opcode.PING, Opcode.PONG]))
                sent.append((control, draw(st.binary(max_size=MAX_CONTROL_BYTES)), True))
    return sent


@SENDERS
@given(sent=valid_messages(), cuts=cuts(), mask=st.binary(min_size=4, max_size=4))
def test_what_we_encode_is_read_alike(
    from_client: bool, sent: list[tuple[Opcode, bytes, bool]], cuts: list[int], mask: bytes
) -> None:
    with_mask = mask if from_client else None
    data = b"".join(
        encode_frame(opcode, payload, is_last=is_last, mask=with_mask)
        for opcode, payload, is_last in sent
    ) + encode_close(CloseCode.GOING_AWAY, "bye", mask=with_mask)
    pieces = pieces_of(data, cuts)
    events, code = read_by_us(pieces, from_client=from_client)
    assert code is None
    assert events[-1] == CloseFrame(CloseCode.GOING_AWAY, "bye")
    assert (events, code) == read_by_them(pieces, from_client=from_client)


@SENDERS
@given(
    messages=st.lists(st.one_of(st.text(), st.binary()), max_size=4),
    size=st.sampled_from(LENGTHS),
    cuts=cuts(),
)
def test_what_wsproto_encodes_is_read(
    from_client: bool, messages: list[str | bytes], size: int, cuts: list[int]
) -> None:
    protocol = FrameProtocol(client=from_client, extensions=[])
    data = bytearray()
    for message in [*messages, "x" * size]:
        data += protocol.send_data(message) + protocol.ping(b"?") + protocol.pong(b"!")
    data += protocol.close(1000, "done")
    events, code = read_by_us(pieces_of(bytes(data), cuts), from_client=from_client)
    assert code is None
    assert [each for each in events if isinstance(each, str | bytes)] == [*messages, "x" * size]
    assert events[-3:] == [PingFrame(b"?"), PongFrame(b"!"), CloseFrame(1000, "done")]


@SENDERS
@pytest.mark.parametrize("size", LENGTHS)
def test_a_frame_has_the_bytes_of_wsproto(from_client: bool, size: int) -> None:
    theirs = bytes(FrameProtocol(client=from_client, extensions=[]).send_data(b"x" * size))
    start = len(encode_header(Opcode.BINARY, size, is_masked=from_client))
    mask = theirs[start : start + 4] if from_client else None
    assert encode_frame(Opcode.BINARY, b"x" * size, mask=mask) == theirs


@SENDERS
@given(data=st.data(), cuts=cuts())
def test_frames_are_refused_when_wsproto_refuses_them(
    from_client: bool, data: st.DataObject, cuts: list[int]
) -> None:
    sent = data.draw(st.lists(frames(from_client=from_client), min_size=1, max_size=6))
    pieces = pieces_of(b"".join(sent), cuts)
    ours = read_by_us(pieces, from_client=from_client)
    assert ours == read_by_them(pieces, from_client=from_client)


@SENDERS
@given(data=st.binary(max_size=40), cuts=cuts())
@example(data=b"\x81\xfe\x00\x7d", cuts=[])
@example(data=b"\x00\x82\x00\x00\x00\x00\x00", cuts=[])
@example(data=b"\x00\x82", cuts=[])
@example(data=b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00", cuts=[])
def test_any_bytes_are_read_or_refused_alike(
    from_client: bool, data: bytes, cuts: list[int]
) -> None:
    pieces = pieces_of(data, cuts)
    events, code = read_by_us(pieces, from_client=from_client)
    theirs, their_code = read_by_them(pieces, from_client=from_client)
    assert events == theirs
    if code is None and their_code == CloseCode.INVALID_DATA:
        return  # wsproto decodes a text while its frame is arriving
    if code is not None and their_code is None:
        # It refuses a data frame that is out of place at the first byte after the mask.
        _, their_code = read_by_them([*pieces, bytes(5)], from_client=from_client)
    assert code == their_code


def test_the_close_codes_are_those_of_wsproto() -> None:
    for code in range(5001):
        frame = [encode_frame(Opcode.CLOSE, code.to_bytes(2, "big"))]
        ours = read_by_us(frame, from_client=False)
        assert ours == read_by_them(frame, from_client=False), code


@given(reason=st.text(max_size=80))
def test_a_long_reason_is_cut_between_two_characters(reason: str) -> None:
    ((close,), code) = read_by_us([encode_close(1008, reason)], from_client=False)
    assert code is None
    assert isinstance(close, CloseFrame)
    assert reason.startswith(close.reason)
    assert len(close.reason.encode()) > 119 or close.reason == reason
    assert encode_close(1008, reason) == FrameProtocol(client=False, extensions=[]).close(
        1008, reason
    )


def test_a_close_frame_without_a_code_is_empty() -> None:
    empty = encode_close(CloseCode.NO_STATUS)
    assert empty == encode_frame(Opcode.CLOSE, b"")
    expected = ([CloseFrame(CloseCode.NO_STATUS, "")], None)
    assert read_by_us([empty], from_client=False) == expected
    assert read_by_them([empty], from_client=False) == expected


def refusals(reader: FrameReader, pieces: list[bytes]) -> Iterator[CloseCode]:
    for piece in pieces:
        reader.feed(piece)
        try:
            reader.read()
        except FrameError as error:
            yield error.code


def test_a_message_that_is_too_large_is_refused_at_its_header() -> None:
    reader = FrameReader(is_peer_client=False, max_message_bytes=10)
    reader.feed(encode_frame(Opcode.TEXT, b"x" * 10))
    assert reader.read() == "x" * 10
    part = encode_frame(Opcode.TEXT, b"x" * 6, is_last=False)
    rest = [encode_frame(Opcode.PING, b"x" * 20), encode_header(Opcode.CONTINUATION, 5)]
    assert [*refusals(reader, [part, *rest])] == [CloseCode.MESSAGE_TOO_BIG]


@pytest.mark.parametrize("most", [10, 125, 126, 200])
def test_a_short_message_has_a_largest_size_too(most: int) -> None:
    reader = FrameReader(is_peer_client=True, max_message_bytes=most)
    reader.feed(encode_frame(Opcode.TEXT, b"x" * most, mask=MASK))
    assert reader.read() == "x" * most
    too_long = encode_frame(Opcode.TEXT, b"x" * (most + 1), mask=MASK)
    assert [*refusals(reader, [too_long])] == [CloseCode.MESSAGE_TOO_BIG]


def test_the_fragments_of_a_message_are_counted_until_it_is_complete() -> None:
    reader = FrameReader(is_peer_client=False)
    reader.feed(encode_frame(Opcode.TEXT, b"a", is_last=False))
    for _ in range(3):
        reader.feed(encode_frame(Opcode.CONTINUATION, b"", is_last=False))
    assert reader.read() is None
    assert reader.fragments == 4
    reader.feed(encode_frame(Opcode.CONTINUATION, b"b"))
    assert reader.read() == "ab"
    assert reader.fragments == 0


@given(
    key=st.binary(min_size=16, max_size=16),
    path=st.sampled_from(["/", "/path?query"]),
    token=st.sampled_from([None, "s3cret"]),
    cuts=cuts(),
)
def test_a_handshake_is_understood_by_wsproto_and_its_answer_by_us(
    key: bytes, path: str, token: str | None, cuts: list[int]
) -> None:
    handshake = ClientHandshake("[::1]:4445", path, key, token=token)
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(handshake.request)
    (request,) = server.events()
    assert isinstance(request, Request)
    assert (request.host, request.target) == ("[::1]:4445", path)
    fields = [(b"authorization", f"Bearer {token}".encode())] if token else []
    assert [each for each in request.extra_headers if each[0] == b"authorization"] == fields
    frame = encode_frame(Opcode.PING, b"first")
    *early, last = pieces_of(server.send(AcceptConnection()) + frame, cuts)
    rest, answer = b"", None
    for piece in (*early, last):
        if answer is None:
            answer = handshake.receive(piece)
            rest = b"" if answer is None else answer[1]
        else:
            rest += piece
    assert answer is not None
    assert (answer[0], rest) == (101, frame)


@pytest.mark.parametrize("status", [200, 302, 403, 503])
def test_a_handshake_that_is_refused_has_a_status(status: int) -> None:
    handshake = ClientHandshake("h", "/", bytes(16))
    answer = f"HTTP/1.1 {status} Reason\r\nContent-Length: 2\r\n\r\nhi".encode()
    assert handshake.receive(answer) == (status, b"hi")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "wrong key"),
        (b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "key"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65_536, "too long"),
    ],
)
def test_what_is_no_answer_to_a_handshake_is_refused(answer: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        ClientHandshake("h", "/", bytes(16)).receive(answer)


def test_nothing_is_read_after_a_close_frame() -> None:
    data = encode_close(1000) + encode_frame(Opcode.TEXT, b"late")
    assert read_by_us([data], from_client=False) == ([CloseFrame(1000, "")], None)
