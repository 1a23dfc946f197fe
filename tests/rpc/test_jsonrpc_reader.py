"""The reader of frames against a naive one, written with the standard library's json."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st

from plexus_registry.rpc.jsonrpc import (
    Batch,
    Invalid,
    error_response,
    read_frame,
    result_response,
)
from plexus_registry.rules.parameters import Limits
from tests.rpc.json_texts import json_texts, request_texts

if TYPE_CHECKING:
    from plexus_registry.rpc.jsonrpc import Frame

MAX_BATCH = 3
MAX_NESTING = Limits().nesting
LIMITS = Limits(batch_requests=MAX_BATCH)


def read(frame: str | bytes) -> Frame:
    return read_frame(frame, LIMITS)


frames = st.one_of(
    json_texts(),
    request_texts(),
    st.lists(request_texts() | json_texts(), max_size=4).map(
        lambda members: f"[{','.join(members)}]"
    ),
)


@st.composite
def broken_frames(draw: st.DrawFn) -> str:
    """Frames with one character more or less."""
    frame = draw(frames)
    at = draw(st.integers(0, len(frame)))
    more = draw(st.sampled_from(("", "", '"', "\\", ",", ":", "{", "]", "9", "-", " ", "\n", "é")))
    return frame[:at] + more + frame[at + (not more) :]


@given(frames | broken_frames() | st.text() | st.binary())
def test_anything_at_all_is_read(frame: str | bytes) -> None:
    outcome = read(frame)
    answers = outcome.items if isinstance(outcome, Batch) else (outcome,)
    assert 1 <= len(answers) <= MAX_BATCH
    for each in answers:
        if isinstance(each, Invalid):
            json.loads(error_response(each.id, each.error))
        elif each.id is not None:
            json.loads(result_response(each.id, "null"))


class Members(list[tuple[str, object]]):
    """A JSON object with its members as they were written."""


def naive_read(text: str) -> object:
    try:
        value: object = json.loads(text, parse_constant=int, object_pairs_hook=Members)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except ValueError:
        return -32700, None
    if not isinstance(value, list) or isinstance(value, Members):
        return naive_request(value)
    if len(value) > MAX_BATCH:
        return -32010, None
    return [naive_request(member) for member in value] or (-32600, None)


def naive_request(value: object) -> object:
    if not isinstance(value, Members):
        return -32600, None
    members = dict(value)
    has_id = isinstance(members.get("id", False), str | int | float | None)
    has_id = has_id and not isinstance(members.get("id", False), bool)
    is_request = members.get("jsonrpc") == "2.0" and isinstance(members.get("method"), str)
    params = members.get("params")
    is_request = is_request and (params is None or isinstance(params, list))
    is_request = is_request and not has_infinity(members.get("params"))
    if not is_request or repeats(value) or ("id" in members and not has_id):
        return -32600, members["id"] if has_id else None
    return members["method"], plain(members.get("params")), members.get("id", "none")


def repeats(value: object) -> bool:
    if isinstance(value, Members):
        keys = [key for key, _ in value]
        return len(keys) > len(set(keys)) or any(repeats(inner) for _, inner in value)
    return isinstance(value, list) and any(map(repeats, value))


def has_infinity(value: object) -> bool:
    """Whether there is a number in it that the parameters of no method can hold."""
    if isinstance(value, Members):
        return any(has_infinity(inner) for _, inner in value)
    return any(map(has_infinity, value)) if isinstance(value, list) else value == math.inf


def plain(value: object) -> object:
    if isinstance(value, Members):
        return {key: plain(inner) for key, inner in value}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def told(outcome: Frame) -> object:
    """Say an outcome as the naive reader does."""
    if isinstance(outcome, Batch):
        return [told(item) for item in outcome.items]
    if isinstance(outcome, Invalid):
        return outcome.error.code, json.loads(outcome.id)
    return outcome.method, outcome.params, json.loads(outcome.id or '"none"')


@given(frames | broken_frames())
@example('{"jsonrpc":"2.0","method":"m","params":{"a:b":1,"a:b":1},"id":1}')
@example('{"jsonrpc":"2.0","method":"m","params":{"a":1,"a":"\\u003a"},"id":1}')
def test_agrees_with_a_naive_reader(frame: str) -> None:
    assert json.dumps(told(read(frame))) == json.dumps(naive_read(frame))
    assert json.dumps(told(read(frame.encode()))) == json.dumps(naive_read(frame))
