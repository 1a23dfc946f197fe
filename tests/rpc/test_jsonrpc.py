"""Frames to requests and back, by the letter of JSON-RPC 2.0."""

from __future__ import annotations

import gc
import json
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rpc import jsonrpc
from plexus_registry.rpc.jsonrpc import (
    MAX_SEPARATORS,
    Batch,
    Invalid,
    Request,
    read_frame,
)
from plexus_registry.rules.parameters import Limits
from tests.rpc.json_texts import ID_TEXTS, json_texts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from plexus_registry.rpc.jsonrpc import Frame

Refused = tuple[str | bytes, int, str]

MAX_BATCH = 3
MAX_NESTING = Limits().nesting
LIMITS = Limits(batch_requests=MAX_BATCH)
HEAD = '{"jsonrpc":"2.0","method":"m"'


def read(frame: str | bytes) -> Frame:
    return read_frame(frame, LIMITS)


def refusal(frame: str | bytes) -> tuple[int, str]:
    """Code and id of the answer to what is no request."""
    invalid = read(frame)
    assert isinstance(invalid, Invalid), invalid
    return invalid.error.code, invalid.id


def all_refused(code: int, request_id: str, *frames: str | bytes) -> Iterator[Refused]:
    return ((frame, code, request_id) for frame in frames)


def with_id(*texts: str) -> list[str]:
    return [f'{HEAD},"id":{text}}}' for text in texts]


def with_other(*texts: str) -> list[str]:
    return [f'{HEAD},"id":1,"x":{text}}}' for text in texts] + [f"[1,{text}]" for text in texts]


# Source: JSON-RPC 2.0, sections 4 to 7; manual/protocol.md, "Requests and responses".
REFUSED: list[Refused] = [
    *all_refused(-32700, "null", "", " ", "{", "}", "nul", "'a'", "{]", "[", "[1,", "[}", "\x00"),
    *all_refused(-32700, "null", "{}{}", "{} x", '{"a"}', '{"a":}', "{a:1}", "//", "\ufeff{}"),
    *all_refused(-32700, "null", b"\xff", b'"\xc3"', b"\xef\xbb\xbf{}", b"\xed\xa0\x80", b"\x00"),
    *all_refused(-32700, "null", HEAD, f"{HEAD},", f"{HEAD},}}", f'{HEAD},"id":1,}}', f"{HEAD}]"),
    *all_refused(-32700, "null", *with_id("", "01", "1.", "+1", ".1", "1e", "-", "--1", "True")),
    *all_refused(
        -32700, "null", *with_id("NaN", "Infinity", '"\t"', '"\\x"', '"\\ud800"', '"\\u12"')
    ),
    *all_refused(-32700, "null", *with_other("NaN", "01", '"\\q"', '"\\ud800"', "[1,]", "{")),
    # Broken after a number that nothing holds.
    *all_refused(-32700, "null", "1e999 x", f'{HEAD},"params":[1e999]', f"[{HEAD},1e999}}]"),
    *all_refused(-32700, "null", f'{HEAD},"params":[1e999],"id":"\\ud800"}}'),
    *all_refused(-32600, "null", "{}", "[]", " [ ] ", "1", "null", '"a"', "true", "1.5"),
    *all_refused(-32600, "null", *with_id("true", "false", "[]", "{}", "[1]", '{"id":1}')),
    *all_refused(-32600, "null", '{"jsonrpc":"2.0","method":1,"params":"bar"}', '{"method":"m"}'),
    *all_refused(-32600, "1", '{"id":1}', '{"jsonrpc":"2.0","id":1}', '{"method":"m","id":1}'),
    *all_refused(-32600, '"a"', '{"jsonrpc":"1.0","method":"m","id":"a"}'),
    *all_refused(-32600, "1", '{"jsonrpc":2.0,"method":"m","id":1}'),
    *all_refused(-32600, "1", '{"jsonrpc":null,"method":"m","id":1}'),
    *all_refused(-32600, "1", '{"jsonrpc":"2.0","method":1,"id":1}'),
    *all_refused(-32600, "null", '{"jsonrpc":"2.0","method":null,"id":null}'),
    *all_refused(-32600, "1", f'{HEAD},"id":1,"method":"n"}}', f'{HEAD},"id":1,"x":1,"x":1}}'),
    *all_refused(-32600, "1", f'{HEAD},"id":1,"m\\u0065thod":"m"}}'),
    *all_refused(-32600, "1", f'{HEAD},"id":1,"params":{{"a":1,"\\u0061":2}}}}'),
    *all_refused(-32600, "1", f'{HEAD},"id":1,"params":[{{"a":[{{"b":1,"b":1}}]}}]}}'),
    *all_refused(-32600, "1", f'{HEAD},"id":1,"x":{{"a":{{}},"a":{{}}}}}}'),
    # As many colons as in what is kept: one is spelled as an escape.
    *all_refused(-32600, "1", f'{HEAD},"id":1,"params":{{"a":1,"a":"\\u003a"}}}}'),
    *all_refused(-32600, "1", f'{HEAD},"id":1,"params":{{"a":1,"a":"\\u003A","b":":"}}}}'),
    # JSON-RPC 2.0, section 4.2: params are an object or an array.
    *all_refused(
        -32600, "1", *(f'{HEAD},"id":1,"params":{x}}}' for x in ("1", '"a"', "true", "0.5"))
    ),
    *all_refused(-32010, "null", "[1,2,3,4]", f"[{HEAD}}},{HEAD}}},{HEAD}}},{HEAD}}}]"),
]


@pytest.mark.parametrize(("frame", "code", "request_id"), REFUSED, ids=ascii)
def test_what_is_no_request(frame: str | bytes, code: int, request_id: str) -> None:
    assert refusal(frame) == (code, request_id)
    if isinstance(frame, str):
        assert refusal(frame.encode()) == (code, request_id)


ACCEPTED: list[tuple[str | bytes, Request]] = [
    (f"{HEAD}}}", Request("m", None, None)),
    (f" \t\r\n{HEAD}}} \n", Request("m", None, None)),
    (f'{HEAD},"id":null}}', Request("m", None, "null")),
    (f'{HEAD},"params":null,"id":1}}', Request("m", None, "1")),
    (f'{HEAD},"params":[],"id":-1}}', Request("m", [], "-1")),
    (f'{HEAD},"params":{{}},"id":"a"}}', Request("m", {}, '"a"')),
    (f'{HEAD},"params":[1,{{"a":"b:c"}}],"id":1.5}}', Request("m", [1, {"a": "b:c"}], "1.5")),
    (f'{HEAD},"params":{{"a":{{"a":{{}}}}}}}}', Request("m", {"a": {"a": {}}}, None)),
    (f'{HEAD},"x":[{{}}],"y":null,"id":1}}', Request("m", None, "1")),
    (f'{HEAD},"x":[{"1" * 5000}],"id":1}}', Request("m", None, "1")),
    (f'{HEAD},"params":[],"id":{"1" * 5000}}}', Request("m", [], "1" * 5000)),
    ('{"id":1,"method":"","jsonrpc":"2.0"}', Request("", None, "1")),
    ('{"jsonrpc":"2\\u002e0","m\\u0065thod":"\\u006d"}', Request("m", None, None)),
    ('{"jsonrpc":"2.0","method":"é🙂"}', Request("é🙂", None, None)),
    (b'{"jsonrpc":"2.0","method":"\xc3\xa9"}', Request("é", None, None)),
]


@pytest.mark.parametrize(("frame", "request_"), ACCEPTED, ids=lambda value: ascii(value)[:60])
def test_what_is_a_request(frame: str | bytes, request_: Request) -> None:
    assert read(frame) == request_


@given(st.sampled_from(ID_TEXTS), st.sampled_from(("", " ", "\n\t")))
def test_an_id_is_echoed_as_it_was_written(request_id: str, blank: str) -> None:
    outcome = read(f'{HEAD},"id":{blank}{request_id}{blank}}}')
    assert isinstance(outcome, Request)
    assert outcome.id == request_id
    assert refusal(f'{{"id":{blank}{request_id}{blank}}}') == (-32600, request_id)


def nested(opening: str, innermost: str, closing: str, depth: int) -> str:
    return opening * depth + innermost + closing * depth


def levels(value: object) -> int:
    """How many arrays and objects are open at the innermost place of a value."""
    if not isinstance(value, (dict, list)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(levels, inner), default=0)


SHAPES = [("[", "", "]"), ('{"a":', "{}", "}"), ('[{"a":', "0", "}]"), ("[0,", "[]", "]")]
PLACES = {
    "params": f'{HEAD},"id":1,"params":%s}}',
    "another member": f'{HEAD},"id":1,"x":%s}}',
    "in a batch": f'[{HEAD}}},{HEAD},"id":1,"params":[1,%s]}}]',
    "beside strings": f'{HEAD},"id":1,"y":["[[{{","\\"]","\\\\"],"params":%s}}',
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES, ids=["arrays", "objects", "both", "arrays with more"])
def test_a_frame_may_nest_only_so_deep(shape: tuple[str, str, str], place: str) -> None:
    for depth in range(1, MAX_NESTING + 3):
        frame = PLACES[place].replace("%s", nested(*shape, depth))
        if levels(json.loads(frame)) <= MAX_NESTING:
            assert isinstance(read(frame), Request | Batch)
        else:
            assert refusal(frame) == (-32700, "null")


@given(json_texts())
def test_brackets_in_strings_are_no_levels(text: str) -> None:
    frame = f'{HEAD},"x":{text},"id":1,"y":["[","[","[","\\"[","\\\\"]}}'
    most = levels(json.loads(frame))
    outcome = read_frame(frame, Limits(nesting=most))
    # A member may be given twice.
    assert isinstance(outcome, Request) or refusal(frame) == (-32600, "1")
    too_deep = read_frame(frame, Limits(nesting=most - 1))
    assert isinstance(too_deep, Invalid)
    assert too_deep.error.code == -32700


def test_brackets_side_by_side_are_one_level() -> None:
    assert isinstance(read(f'{HEAD},"params":[{",".join(["[{}]"] * 1000)}]}}'), Request)


@pytest.mark.parametrize("text", ["[]", "{}", "0", '""', '{"a":1}', '","'])
@pytest.mark.parametrize("place", ["[%s]", f'{HEAD},"x":[%s]}}', f'{HEAD},"params":[%s]}}', "[%s"])
def test_a_frame_of_too_many_values_is_refused_before_it_is_decoded(
    text: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = place.replace("%s", ",".join([text] * MAX_SEPARATORS) + ",1")
    for decoder in ("_decode_envelope", "_decode_raw", "_decode_array", "_decode_loose"):
        monkeypatch.setattr(jsonrpc, decoder, None)
    outcome = read(frame)
    assert isinstance(outcome, Invalid)
    assert (outcome.error.code, outcome.id) == (-32700, "null")
    assert f"at most {MAX_SEPARATORS} commas" in str(outcome.error.data["reason"])


def test_a_frame_may_have_as_many_values_as_is_said() -> None:
    frame = f'{HEAD},"params":[{",".join("1" * (MAX_SEPARATORS - 3))}]}}'
    assert frame.count(",") + frame.count("[") + frame.count("{") == MAX_SEPARATORS
    assert isinstance(read(frame), Request)
    assert refusal(frame.replace("[", "[1,")) == (-32700, "null")


def calls_to_read(frame: str) -> int:
    """Count the calls of Python functions that it takes to read a frame."""
    calls = 0

    def count(called: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    former = sys.getprofile()
    gc.disable()  # whatever a collection calls is no part of it
    sys.setprofile(count)
    try:
        read(frame)
    finally:
        sys.setprofile(former)
        gc.enable()
    return calls


@pytest.mark.parametrize(
    "value",
    [
        f"[{','.join(['[]'] * 10_000)}]",
        f"[{','.join(['[' * 60 + ']' * 60] * 400)}]",
        f"[{','.join(['0.12345'] * 20_000)}]",
        json.dumps({str(number): 1 for number in range(20_000)}),
        f'"{"," * 20_000}[:"',
    ],
    ids=["arrays", "deep arrays", "numbers", "members", "string"],
)
@pytest.mark.parametrize("name", ["params", "x"])
def test_no_check_goes_through_the_values_one_by_one_in_python(value: str, name: str) -> None:
    assert calls_to_read(f'{HEAD},"id":1,"{name}":{value}}}') < 40


def test_an_ordinary_call_through_a_hub_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonrpc, "_repeated_key", None)
    inner = '{"name":"a","host":"::1","x":[{"b":"\\"http://é\\""}]}'
    frame = f'{HEAD},"id":1,"params":{{"method":"m","params":{inner}}}}}'
    assert isinstance(read(frame), Request)


def test_what_a_refusal_repeats_of_a_frame_is_bounded() -> None:
    invalid = read(f'{{"jsonrpc":"{"x" * 10_000}","method":"m","id":1}}')
    assert isinstance(invalid, Invalid)
    assert len(str(invalid.error.data["reason"])) < 200


@pytest.mark.parametrize("shape", SHAPES, ids=["arrays", "objects", "both", "arrays with more"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
@pytest.mark.parametrize(
    "place",
    [
        "%s",
        "[%s]",
        f'{HEAD},"x":%s}}',
        f'{HEAD},"id":%s}}',
        '{"method":1,"x":%s}',
        f'{HEAD},"params":[1e999],"x":%s}}',
    ],
)
def test_a_frame_that_nests_beyond_all_measure(
    shape: tuple[str, str, str], place: str, whole: bool
) -> None:
    monster = nested(*shape, 100_000)
    frame = place.replace("%s", monster if whole else monster[: len(monster) // 2])
    assert refusal(frame) == (-32700, "null")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5000], ids=["1e999", "-1e999", "long"])
def test_a_number_that_nothing_holds_is_refused_under_the_id_of_its_request(number: str) -> None:
    code, request_id = refusal(f'{HEAD},"params":[{number}],"id":7}}')
    assert code in {-32600, -32602}
    assert request_id == "7"


def test_a_batch_is_read_member_by_member_in_order() -> None:
    outcome = read(f'\n [{HEAD},"id":1}}, 2 ,{HEAD}}}]')
    assert isinstance(outcome, Batch)
    first, second, third = outcome.items
    assert first == Request("m", None, "1")
    assert isinstance(second, Invalid)
    assert (second.error.code, second.id) == (-32600, "null")
    assert third == Request("m", None, None)


def test_a_batch_with_a_member_that_nests_too_deeply_is_refused_as_a_whole() -> None:
    deep = nested("[", "", "]", MAX_NESTING + 1)
    assert refusal(f'[{HEAD},"id":1}},{HEAD},"id":2,"params":{deep}}}]') == (-32700, "null")


def test_a_batch_inside_a_batch_is_no_request() -> None:
    outcome = read(f'[[{HEAD},"id":1}}]]')
    assert isinstance(outcome, Batch)
    [inner] = outcome.items
    assert isinstance(inner, Invalid)
    assert (inner.error.code, inner.id) == (-32600, "null")


@pytest.mark.parametrize("text", ["\ud800", '{"\ud800', '["\ud800"]'], ids=ascii)
def test_text_that_no_utf8_holds_is_a_parse_error(text: str) -> None:
    assert refusal(text) == (-32700, "null")
