"""Whatever a frame holds, it gets its JSON-RPC answer, and connection and server live on."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from tests.e2e.harness import Peer, dial, shared_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

PARSE, INVALID, UNKNOWN, PARAMS, BATCH = -32700, -32600, -32601, -32602, -32010
WORDS = {
    PARSE: "parse_error",
    INVALID: "invalid_request",
    UNKNOWN: "method_not_found",
    PARAMS: "invalid_params",
    BATCH: "batch_too_large",
}
DEEP = 100_000
DIGITS = "9" * 5000


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all of these: each case must leave it as it was."""
    with shared_registry(tmp_path_factory.mktemp("server"), "--no-auto-register") as url:
        yield url


def call(params: str, method: str = "get", id_: str = "1") -> str:
    """A request as text, with parts that need not be JSON."""
    return f'{{"jsonrpc":"2.0","id":{id_},"method":"registry.{method}","params":{params}}}'


def claim(**parts: str) -> str:
    """A register request as text, with members that need not be JSON."""
    members = {"name": '"a"', "host": '"h"', "port": "1", **parts}
    return call("{" + ",".join(f'"{k}":{v}' for k, v in members.items()) + "}", "register")


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


async def still_answers(peer: Peer) -> None:
    with trio.fail_after(30):
        assert await peer.names() == []


BROKEN: list[tuple[str, str | bytes]] = [
    ("a word", "hello"),
    ("nothing", ""),
    ("nothing, binary", b""),
    ("blanks", " \r\n\t"),
    ("half", '{"jsonrpc":"2.0","id":1'),
    ("two", call("{}") + call("{}")),
    ("more after it", call('["a"]') + "x"),
    ("comma at the end", '{"jsonrpc":"2.0","id":1,"method":"registry.list",}'),
    ("single quotes", "{'jsonrpc':'2.0','id':1,'method':'registry.list'}"),
    ("byte order mark", "\ufeff" + call('["a"]')),
    ("not UTF-8", b'{"jsonrpc":"2.0","id":1,"method":"registry.get","params":["\xff"]}'),
    ("UTF-16", call('["a"]').encode("utf-16")),
    ("overlong UTF-8", b'["\xc0\x80"]'),
    ("NaN", call("[NaN]")),
    ("infinity", claim(port="-Infinity")),
    ("NaN as id", call('["a"]', id_="NaN")),
    ("leading zero", call('["a"]', id_="01")),
    ("half a number", claim(port="1e")),
    ("bad escape", call(r'["\q"]')),
    ("bare control character", call('["\n"]')),
    ("lone high surrogate", call(r'["\ud800"]')),
    ("lone low surrogate", call(r'["\udc00"]')),
    ("surrogate in a description", claim(description=r'"\ud800"')),
    ("surrogate in metadata", claim(metadata=r'{"\udfff":"\ud800"}')),
    ("surrogate in the id", call('["a"]', id_=r'"\ud800"')),
    ("surrogate in the method", r'{"jsonrpc":"2.0","id":1,"method":"\ud800"}'),
    ("deep arrays", nested(DEEP)),
    ("deep objects", nested(DEEP, '{"a":', "}")),
    ("deep and unclosed", "[" * DEEP),
    ("deep params", call(nested(DEEP))),
    ("deep metadata", claim(metadata=nested(DEEP, '{"a":', "}").replace(":}", ":1}"))),
    ("deep id", call('["a"]', id_=nested(DEEP))),
    ("deep in a batch", f"[{call(nested(DEEP))}]"),
    ("deep in an unknown member", call(f'["a"],"more":{nested(DEEP)}')),
    ("batch with a broken member", f"[{call('[1]')},{{]"),
    ("batch with a bad number", f"[{call('[1]')},{call('[1]', id_='01')}]"),
    ("unclosed batch", f"[{call('[1]')}"),
]

NO_REQUEST: list[tuple[str, str | bytes, object]] = [
    ("number", "1", None),
    ("string", '"registry.list"', None),
    ("null", "null", None),
    ("empty object", "{}", None),
    ("empty batch", "[]", None),
    ("empty batch with blanks", " [ ]\n", None),
    ("no version", '{"id":1,"method":"registry.list"}', 1),
    ("version 1.0", '{"jsonrpc":"1.0","id":1,"method":"registry.list"}', 1),
    ("version as number", '{"jsonrpc":2.0,"id":"x","method":"registry.list"}', "x"),
    ("no method", '{"jsonrpc":"2.0","id":1}', 1),
    ("method is no string", '{"jsonrpc":"2.0","id":1,"method":{}}', 1),
    ("id is true", call('["a"]', id_="true"), None),
    ("id is an object", call('["a"]', id_="{}"), None),
    ("id is an array", call('["a"]', id_="[1]"), None),
    ("no method, no id", '{"jsonrpc":"2.0"}', None),
    ("params is a number", call("1"), 1),
    ("params is a string", call('"a"'), 1),
    ("duplicate parameter", call('{"name":"a","name":"b"}'), 1),
    ("duplicate under an escape", call(r'{"name":"a","n\u0061me":"b"}'), 1),
    ("duplicate method", '{"jsonrpc":"2.0","id":1,"method":"a","method":"registry.list"}', 1),
    ("duplicate deep inside", claim(metadata='{"a":[{"b":1,"b":2}]}'), 1),
]

BAD_PARAMS: list[tuple[str, str]] = [
    ("name missing", call("{}")),
    ("name is null", call('{"name":null}')),
    ("name is a number", call('{"name":1}')),
    ("name is an array", call('[["a"]]')),
    ("too many", call('["a","b"]')),
    ("unknown", call('{"name":"a","nmae":"a"}')),
    ("port is true", claim(port="true")),
    ("port is a string", claim(port='"1"')),
    ("port is a fraction", claim(port="1.0")),
    ("port is zero", claim(port="0")),
    ("port is too high", claim(port="65536")),
    ("port has 30 digits", claim(port="9" * 30)),
    ("port is negative", claim(port="-1")),
    ("name with a slash", claim(name='"../a"')),
    ("name with a line end", claim(name=r'"a\n"')),
    ("name is empty", claim(name='""')),
    ("name is too long", claim(name=f'"{"a" * 129}"')),
    ("host is a URL", claim(host='"ws://h"')),
    ("host is empty", claim(host='""')),
    ("protocol is http", claim(protocol='"http"')),
    ("description is too long", claim(description=f'"{"d" * 4097}"')),
    ("metadata is the text of no object", claim(metadata='"[]"')),
    ("metadata is too large", claim(metadata=f'{{"a":"{"m" * 16_384}"}}')),
    ("source is file", claim(source='"file"')),
    ("replace is a number", claim(replace="1")),
    ("active_only is a string", call('["yes"]', "list")),
    ("reload with parameters", call("[1]", "reload")),
]


def table() -> Iterator[tuple[str, str | bytes, int, object]]:
    """All that one error object answers: what it is, the frame, the code and the id."""
    return chain(
        ((what, frame, PARSE, None) for what, frame in BROKEN),
        ((what, frame, INVALID, id_) for what, frame, id_ in NO_REQUEST),
        ((what, frame, PARAMS, 1) for what, frame in BAD_PARAMS),
    )


def check_error(answer: object, code: int, id_: object) -> None:
    assert isinstance(answer, dict)
    assert list(answer) == ["jsonrpc", "id", "error"]
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", id_)
    error = answer["error"]
    assert isinstance(error, dict)
    assert list(error) == ["code", "message", "data"]
    assert (error["code"], error["data"]["code"]) == (code, WORDS[code])
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    ("frame", "code", "id_"), [pytest.param(*case, id=what) for what, *case in table()]
)
async def test_bad_input_gets_its_error(
    url: str, frame: str | bytes, code: int, id_: object
) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            check_error(await peer.exchange(frame), code, id_)
            await still_answers(peer)


async def test_one_connection_survives_all_of_it(url: str) -> None:
    with trio.fail_after(30):
        async with dial(url) as peer:
            for _, frame, code, id_ in table():
                check_error(await peer.exchange(frame), code, id_)
            await still_answers(peer)
        async with dial(url) as newcomer:
            await still_answers(newcomer)


@pytest.mark.parametrize("number", [f"1e{DIGITS}", "1e400", DIGITS, f"-{DIGITS}", f"0.{DIGITS}"])
@pytest.mark.parametrize("place", ["port", "metadata", "id", "name"])
async def test_numbers_beyond_all_bounds_are_answered(url: str, number: str, place: str) -> None:
    frames = {
        "port": claim(port=number),
        "metadata": claim(metadata=f'{{"a":{number}}}', name='"."'),
        "id": call('{"name":1}', id_=number),
        "name": call(f"[{number}]"),
    }
    with trio.fail_after(30):
        async with dial(url) as peer:
            await peer.ws.send_message(frames[place])
            answer = msgspec.json.decode(await peer.ws.get_message(), type=dict[str, msgspec.Raw])
            assert "error" in answer
            if place == "id":
                assert bytes(answer["id"]).decode() == number
            await still_answers(peer)
