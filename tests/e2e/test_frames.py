"""Batches, notifications, ids, and how large a message may be."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.e2e.harness import Peer, dial, shared_registry
from tests.e2e.raw import CLOSE, PING, TEXT, frame, wire_to

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE = 1024 * 1024
MESSAGE_TOO_BIG = 1009


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with shared_registry(tmp_path_factory.mktemp("server"), "--no-auto-register") as url:
        yield url


_numbers = count()


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"backend-{next(_numbers)}"


def request(method: str, params: object, **id_: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", **id_, "method": f"registry.{method}", "params": params}


def register(name: str, **id_: object) -> dict[str, object]:
    return request("register", {"name": name, "host": "h", "port": 1}, **id_)


def ask_for(name: str, **id_: object) -> dict[str, object]:
    return request("get", [name], **id_)


def text(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def answers_to(peer: Peer, batch: list[object]) -> list[dict[str, object]]:
    answers = await peer.exchange(text(batch))
    assert isinstance(answers, list)
    return answers


async def test_a_batch_is_answered_once_in_order(url: str, name: str) -> None:
    batch = [
        ask_for(name, id=1),
        register(name, id="two"),
        17,
        ask_for(name, id=None),
        ask_for(name),
        {"jsonrpc": "2.0", "id": 5, "method": "registry.nonsense"},
        request("get", [1, 2], id=6.5),
        {},
        [],
        request("delete", [name], id=7),
        ask_for(name, id=1),
    ]
    with trio.fail_after(30):
        async with dial(url) as peer:
            answers = await answers_to(peer, batch)
            assert await peer.get(name) is None
    ids = [answer["id"] for answer in answers]
    assert ids == [1, "two", None, None, 5, 6.5, None, None, 7, 1]
    codes = [dict(answer.get("error", {})).get("code") for answer in answers]  # type: ignore[call-overload]  # an object
    assert codes == [None, None, -32600, None, -32601, -32602, -32600, -32600, None, None]
    found = [msgspec.json.encode(answers[place]) for place in (0, 3, 9)]
    assert [b'"backend":null' in each for each in found] == [True, False, True]


async def test_a_batch_of_notifications_is_carried_out_and_not_answered(
    url: str, name: str
) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            unknown = {"jsonrpc": "2.0", "method": "registry.nonsense"}
            batch = [register(name), unknown, request("get", []), request("deregister", [name])]
            await peer.ws.send_message(text(batch))
            # The next frame that comes is the answer to this request, not to the batch.
            backend = await peer.get(name)
    assert backend is not None
    assert backend["is_active"] is False


@pytest.mark.parametrize(
    "refused",
    [
        {"jsonrpc": "2.0", "method": "registry.nonsense"},
        {"jsonrpc": "2.0", "method": "registry.get"},
        request("register", {"name": "a/b", "host": "h", "port": 1}),
        request("delete", ["nobody"]),
    ],
    ids=["unknown method", "no params", "bad params", "not found"],
)
async def test_a_notification_that_fails_is_not_answered(
    url: str, refused: dict[str, object]
) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            await peer.ws.send_message(text(refused))
            assert await peer.get("nobody") is None


async def test_notifications_are_carried_out_in_their_place(url: str, name: str) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            for change in (
                register(name),
                request("update", {"name": name, "description": "new"}),
                request("ping", [name]),
            ):
                await peer.ws.send_message(text(change))
            backend = await peer.get(name)
            assert backend is not None
            assert backend["description"] == "new"
            assert "last_seen" in backend
            await peer.ws.send_message(text(request("delete", [name])))
            assert await peer.get(name) is None


async def test_the_largest_batch_and_one_request_more(url: str, name: str) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            largest = [ask_for("a", id=number) for number in range(1000)]
            answers = await answers_to(peer, [*largest])
            assert [answer["id"] for answer in answers] == list(range(1000))
            refused = await peer.exchange(text([register(name, id=0), *largest]))
            assert isinstance(refused, dict)
            assert (refused["id"], refused["error"]["code"]) == (None, -32010)
            assert "1001" in refused["error"]["data"]["reason"]
            assert await peer.get(name) is None


IDS = ["null", '""', '"a"', '"1"', r'"\u00e9\n\ud83d\ude00"', f'"{"i" * 10_000}"']
IDS += ["0", "-0", "-7", "1.5", "1.50e+2", "18446744073709551616", "9" * 40]


@pytest.mark.parametrize("id_", IDS)
async def test_ids_are_echoed_as_they_were_written(url: str, id_: str) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            await peer.ws.send_message(f'{{"jsonrpc":"2.0","id":{id_},"method":"registry.list"}}')
            answer = await peer.ws.get_message()
            assert isinstance(answer, str)
            assert answer.startswith(f'{{"jsonrpc":"2.0","id":{id_},"result":')
            await peer.ws.send_message(f'{{"id": {id_}, "jsonrpc":"2.0","method":"nonsense"}}')
            answer = await peer.ws.get_message()
            assert isinstance(answer, str)
            assert answer.startswith(f'{{"jsonrpc":"2.0","id":{id_},"error":')


@pytest.mark.parametrize(
    "sent",
    [
        text(ask_for("a", id=1)).encode(),
        f" \r\n\t{text(ask_for('a', id=1))}\n",
        text({**ask_for("a", id=1), "more": {"than": ["needed"]}}),
        text({"params": {"name": "a"}, "method": "registry.get", "id": 1, "jsonrpc": "2.0"}),
        r'{"jsonrpc":"2.0","id":1,"m\u0065thod":"registry\u002eget","params":["\u0061"]}',
    ],
    ids=["binary", "blanks around it", "unknown members", "any order", "escapes"],
)
async def test_unusual_requests_are_answered_with_text(url: str, sent: str | bytes) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            await peer.ws.send_message(sent)
            answer = await peer.ws.get_message()
    assert answer == '{"jsonrpc":"2.0","id":1,"result":{"type":"backend","backend":null}}'


def padded(request: str, size: int) -> str:
    return request + " " * (size - len(request))


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
async def test_a_message_of_a_mebibyte_is_answered_and_no_larger_one(
    url: str, binary: bool
) -> None:
    def sized(size: int) -> str | bytes:
        message = padded(text(ask_for("a", id=1)), size)
        return message.encode() if binary else message

    with trio.fail_after(30):
        async with dial(url) as peer, dial(url) as bystander:
            answer = await peer.exchange(sized(MAX_MESSAGE))
            assert isinstance(answer, dict)
            assert "result" in answer
            await peer.ws.send_message(sized(MAX_MESSAGE + 1))
            with pytest.raises(ConnectionClosed) as closed:
                await peer.ws.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == MESSAGE_TOO_BIG
            assert await bystander.get("a") is None


async def test_a_message_in_many_small_frames_is_held_to_the_same_size(url: str) -> None:
    with trio.fail_after(30):
        async with wire_to(int(url.rpartition(":")[2])) as wire:
            await wire.open_websocket()
            await wire.send(frame(TEXT, text(ask_for("a", id=1)).encode(), last=False))
            with pytest.raises(trio.BrokenResourceError):
                await wire.send(frame(0, b" " * 4096, last=False) * 10_000)
        async with dial(url) as peer:
            assert await peer.get("a") is None


async def test_control_frames_between_the_parts_of_a_message(url: str) -> None:
    call = text(ask_for("a", id=1)).encode()
    parts = frame(TEXT, call[:9], last=False), frame(PING, b"p"), frame(0, call[9:])
    with trio.fail_after(30):
        async with wire_to(int(url.rpartition(":")[2])) as wire:
            await wire.open_websocket()
            for part in parts:
                await wire.send(part)
            received = b""
            while b'"backend":null' not in received:
                received += await wire.stream.receive_some()
            assert received.startswith(b"\x8a\x01p")


@pytest.mark.slow
async def test_a_large_message_in_small_fragments_is_answered(url: str) -> None:
    """Autobahn's cases 9.3.1 and 9.4.1 send fragments of 64 bytes."""
    message = text(request("get", ["x" * 999_900], id=1)).encode()
    pieces = [message[start : start + 64] for start in range(0, len(message), 64)]
    assert 15_000 < len(pieces) < 16_000
    with trio.fail_after(30):
        async with wire_to(int(url.rpartition(":")[2])) as wire:
            await wire.open_websocket()
            for number, piece in enumerate(pieces):
                is_last = number == len(pieces) - 1
                await wire.send(frame(0 if number else TEXT, piece, last=is_last))
            assert b'"backend":null' in await wire.stream.receive_some()


@pytest.mark.slow
async def test_fragments_without_end_are_told_before_the_cut(url: str) -> None:
    with trio.fail_after(30):
        async with wire_to(int(url.rpartition(":")[2])) as wire:
            await wire.open_websocket()
            await wire.send(frame(TEXT, b"", last=False) + frame(0, b"", last=False) * 17_000)
            head = await wire.stream.receive_some(2)
            assert head[0] == 0x80 | CLOSE
            reason = await wire.stream.receive_some()
            assert reason[:2] == (1008).to_bytes(2, "big")
            assert b"fragments" in reason
