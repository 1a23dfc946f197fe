"""Answers: well-formed, with their members in the order of the protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rpc.jsonrpc import error_response, result_response
from plexus_registry.rules import errors
from plexus_registry.rules.backend import Backend
from plexus_registry.rules.events import encode_value
from tests import strategies as sts
from tests.rpc.json_texts import ID_TEXTS

if TYPE_CHECKING:
    from plexus_registry.rules.errors import CallError

ids_and_results = st.tuples(st.sampled_from(ID_TEXTS), sts.json_values().map(json.dumps))


@given(ids_and_results)
def test_a_result_is_answered_in_the_order_of_the_protocol(case: tuple[str, str]) -> None:
    request_id, result = case
    text = result_response(request_id, result)
    assert text.startswith(f'{{"jsonrpc":"2.0","id":{request_id},"result":')
    answer = json.loads(text)
    assert [*answer] == ["jsonrpc", "id", "result"]
    assert answer["result"] == json.loads(result)


ERRORS: list[st.SearchStrategy[CallError]] = [
    st.builds(errors.ParseError, st.text(), reason=st.text()),
    st.builds(errors.InvalidParamsError, st.text(), param=st.text(), value=sts.json_values()),
    st.builds(errors.NotFound, st.text()),
    st.builds(errors.NameTaken, st.text(), holder=sts.backends()),
    st.builds(errors.StorageFailed, st.text()),
]


@given(st.sampled_from(ID_TEXTS), st.one_of(ERRORS))
def test_an_error_is_answered_with_code_message_and_data(request_id: str, error: CallError) -> None:
    text = error_response(request_id, error)
    assert text.startswith(f'{{"jsonrpc":"2.0","id":{request_id},"error":{{"code":{error.code},')
    answer = json.loads(text)
    assert [*answer] == ["jsonrpc", "id", "error"]
    value = answer["error"]
    assert [*value] == ["code", "message", "data"]
    assert (value["code"], value["message"]) == (error.code, error.message)
    assert value["data"].keys() == error.data.keys()
    holder = error.data.get("holder")
    if isinstance(holder, Backend):
        assert value["data"]["holder"] == json.loads(encode_value(holder))
