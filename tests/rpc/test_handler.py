"""Whatever comes as a frame, what goes back is well-formed JSON-RPC, or nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rpc.handler import Handler
from plexus_registry.rpc.plexus import Hub
from tests.fakes import Disk, answered, opened

if TYPE_CHECKING:
    from pathlib import Path

HUB = Hub("registry-hub")
WORDS = ["registry.get", "registry.register", "registry-hub.call", "_info", "registry_list", "2.0"]
MEMBERS = ["jsonrpc", "id", "method", "params", "name", "host", "port", "subscription"]

words = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
members = st.one_of(st.sampled_from(MEMBERS), st.text(max_size=4))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(members, inner, max_size=5)
    ),
    max_leaves=12,
)
requests = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": words},
    optional={"id": st.one_of(st.integers(), st.text(max_size=4), st.none()), "params": values},
)
frames = st.one_of(values, requests, st.lists(st.one_of(requests, values), max_size=4))


def check_response(response: object, ids: list[object]) -> None:
    assert isinstance(response, dict)
    assert response["jsonrpc"] == "2.0"
    assert response.keys() in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
    known = response["id"] in ids or response["id"] is None
    assert known or (isinstance(response["id"], float) and math.isnan(response["id"]))
    if "error" in response:
        assert response["error"].keys() <= {"code", "message", "data"}
        assert isinstance(response["error"]["code"], int)
        assert isinstance(response["error"]["message"], str)
        assert response["error"]["code"] != -32603, "no input is a bug of ours"


def ids_in(frame: object) -> list[object]:
    requests_in = frame if isinstance(frame, list) else [frame]
    return [each.get("id") for each in requests_in if isinstance(each, dict)]


@pytest.mark.slow
def test_any_json_value_gets_a_well_formed_answer_or_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("responder")

    @given(frame=frames)
    def holds(frame: object) -> None:
        answers = trio.run(_answer, folder, msgspec.json.encode(frame).decode())
        if not answers:
            return
        response = msgspec.json.decode(answers[0])
        for each in response if isinstance(response, list) else [response]:
            check_response(each, ids_in(frame))
        for item in answers[1:]:
            notification = msgspec.json.decode(item)
            assert notification.keys() == {"jsonrpc", "method", "params"}

    holds()


@given(frame=st.one_of(st.text(), st.binary()))
@pytest.mark.slow
def test_any_text_and_any_bytes_get_an_answer(
    tmp_path_factory: pytest.TempPathFactory, frame: str | bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "text"
    folder.mkdir(exist_ok=True)
    (answer,) = trio.run(_answer, folder, frame)
    check_response(msgspec.json.decode(answer), [])


async def _answer(folder: Path, frame: str | bytes) -> list[str]:
    async with opened(folder) as registry:
        return await answered(Handler(registry, HUB), frame)


async def test_a_bug_is_an_internal_error_and_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as registry:
        responder = Handler(registry, HUB)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry.catalog, "found", None)
            (answer,) = await answered(
                responder, '{"jsonrpc":"2.0","id":1,"method":"registry.get","params":["a"]}'
            )
            assert msgspec.json.decode(answer)["error"]["code"] == -32603
            _, item = await answered(
                responder, '{"jsonrpc":"2.0","id":2,"method":"registry_get","params":["a"]}'
            )
        result = msgspec.json.decode(item)["params"]["result"]
        assert (result["type"], result["code"]) == ("error", "-32603")
    assert caplog.text.count("Traceback") == 2


async def test_a_refusal_through_the_hub_is_a_data_item_and_done(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        disk.is_full = True
        _, data, done = await answered(
            Handler(registry, HUB),
            '{"jsonrpc":"2.0","id":1,"method":"registry-hub.call","params":{"method":'
            '"registry.register","params":{"name":"a","host":"h","port":1}}}',
        )
        disk.is_full = False
    content = msgspec.json.decode(data)["params"]["result"]["content"]
    assert content["type"] == "error"
    assert content["code"] == "storage_failed"
    assert "database or disk is full" in content["message"]
    assert msgspec.json.decode(done)["params"]["result"]["type"] == "done"


async def test_too_many_streams_in_one_batch_are_refused_one_by_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        responder = Handler(registry, HUB)
        responder.subscriptions._max_subscriptions = 2
        call = '{"jsonrpc":"2.0","id":1,"method":"_info"}'
        response, *items = await answered(responder, f"[{call},{call},{call}]")
        first, second, third = msgspec.json.decode(response)
        assert [first["result"], second["result"]] == [1, 2]
        assert third["error"]["code"] == -32006
        assert len(items) == 4
        assert len(await answered(responder, call)) == 3, "the streams before have ended"
