"""Routing: manual/protocol.md, "Routing of a call", row by row; and what streams say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from plexus_registry.rpc.plexus import Hub
from plexus_registry.rpc.schema import hub_plugin, registry_plugin
from plexus_registry.rpc.streams import CallFailure, Stream, Unsubscribe
from plexus_registry.rules import methods
from plexus_registry.rules.backend import Update
from plexus_registry.rules.errors import InvalidParamsError, MethodNotFoundError

if TYPE_CHECKING:
    from plexus_registry.rules.parameters import Command

HUB = Hub("registry-hub")
HUB_HASH = hub_plugin("registry-hub", registry_plugin()).hash
NOW = 1_767_225_600


def stream(method: str, params: object = None) -> Stream:
    route = HUB.route(method, params)
    assert isinstance(route, Stream)
    return route


def called(method: str, params: object = None, **extra: object) -> Stream:
    return stream("registry-hub.call", {"method": method, "params": params, **extra})


def notification(route: Stream) -> object:
    return msgspec.json.decode(route.encoder.whole(1, "null", now=NOW)[0])["method"]


def items(route: Stream, report: str | None = None) -> list[dict[str, object]]:
    """The items of a stream; a command says what is reported of it."""
    outcome = route.source if isinstance(route.source, str | CallFailure) else report
    assert outcome is not None
    found = []
    for frame in route.encoder.whole(7, outcome, now=NOW):
        params = msgspec.json.decode(frame)["params"]
        assert params["subscription"] == 7
        found.append(params["result"])
    return found


@pytest.mark.parametrize(
    ("method", "params", "command"),
    [
        ("registry.get", {"name": "a"}, methods.Get(name="a")),
        ("registry.get", "a", methods.Get(name="a")),
        ("registry-hub.registry.get", {"name": "a"}, methods.Get(name="a")),
        ("registry.list", None, methods.List()),
        ("registry.list", {"active_only": None}, methods.List()),
        ("registry.list", {"active_only": False, "bogus": 1}, methods.List(active_only=False)),
        ("registry.list", False, methods.List(active_only=False)),
        ("registry.reload", [1, "anything"], methods.Reload()),
        ("registry.deregister", {"name": "a"}, methods.Deregister(name="a")),
        ("registry.update", {"name": "a", "host": None}, Update(name="a")),
    ],
)
def test_a_call_makes_the_command(method: str, params: object, command: Command) -> None:
    assert called(method, params).source == command


@pytest.mark.parametrize(
    ("method", "params", "content_type", "key"),
    [
        ("registry.schema", None, "registry.schema", "methods"),
        ("registry.schema", {}, "registry.schema", "methods"),
        ("registry.schema", {"method": None}, "registry.schema", "methods"),
        ("registry.schema", {"method": "list"}, "registry.schema", "streaming"),
        ("registry.schema", ["list"], "registry.schema", "streaming"),
        ("registry.schema", {"method": "schema"}, "registry.schema", "streaming"),
        ("registry.list.schema", None, "registry.list.schema", "methods"),
        ("registry-hub.schema", None, "registry-hub.schema", "children"),
        ("registry-hub.registry.schema", None, "registry.schema", "methods"),
        ("registry-hub.call.schema", None, "registry-hub.call.schema", "methods"),
        ("registry-hub.hash", {}, "registry-hub.hash", "value"),
        ("registry-hub.hashes", {}, "registry-hub.hashes", "children_hash"),
    ],
)
def test_a_call_for_what_is_known_says_it(
    method: str, params: object, content_type: str, key: str
) -> None:
    data, done = items(called(method, params))
    assert data["content_type"] == content_type
    assert key in msgspec.convert(data["content"], dict[str, object])
    assert done["type"] == "done"


@pytest.mark.parametrize(
    ("method", "params", "message", "code", "kind"),
    [
        ("registry.x", None, "Method not found: registry.x", -32601, "method_not_found"),
        ("registry.hash", None, "Method not found: registry.hash", -32601, "method_not_found"),
        ("registry.a.b", None, "Method not found: registry.a.b", -32601, "method_not_found"),
        (
            "registry.schema",
            {"method": "nope"},
            "Method not found: registry.nope",
            -32601,
            "method_not_found",
        ),
        (
            "registry.lst",
            None,
            "Method not found: registry.lst (did you mean registry.list?)",
            -32601,
            "method_not_found",
        ),
        ("registry-hub.x", None, "Method not found: registry-hub.x", -32601, "method_not_found"),
        ("registry-hub.x.y", None, "Activation not found: x", -32601, "activation_not_found"),
        ("foo.bar", None, "Activation not found: foo", -32601, "activation_not_found"),
        (
            "registri.list",
            None,
            "Activation not found: registri (did you mean registry?)",
            -32601,
            "activation_not_found",
        ),
        (
            "list",
            None,
            "Invalid params: Invalid method format: list",
            -32602,
            "invalid_params",
        ),
        ("", None, "Invalid params: Invalid method format: ", -32602, "invalid_params"),
        (
            "registry.register",
            {"name": "x", "host": "y"},
            "Invalid params: missing field: port",
            -32602,
            "invalid_params",
        ),
        (
            "registry.get",
            {"name": 5},
            "Invalid params: Parameter name is 5: it must be a string",
            -32602,
            "invalid_params",
        ),
        (
            "registry.get",
            ["a"],
            'Invalid params: expected object, got ["a"]',
            -32602,
            "invalid_params",
        ),
        (
            "registry.register",
            "a",
            'Invalid params: expected object, got "a"',
            -32602,
            "invalid_params",
        ),
        ("registry-hub.call", {}, None, -32602, "invalid_params"),
    ],
)
def test_a_call_that_cannot_be_carried_out_ends_with_one_error(
    method: str, params: object, message: str | None, code: int, kind: str
) -> None:
    (error,) = items(called(method, params))
    assert error["type"] == "error"
    assert error["code"] == str(code)
    assert error["error_kind"] == kind
    assert msgspec.convert(error["error"], dict[str, object])["kind"] == kind
    assert error["recoverable"] is False
    if message is not None:
        assert error["message"] == message


def test_an_unknown_method_always_names_the_nearest_known_one() -> None:
    (error,) = items(called("registry.deregistr"))
    assert error["error"] == {
        "kind": "method_not_found",
        "activation": "registry",
        "method": "deregistr",
        "nearest": "deregister",
    }
    with pytest.raises(MethodNotFoundError, match=r"did you mean registry\.list") as refusal:
        HUB.route("registry.lits", None)
    assert refusal.value.data["nearest"] == "registry.list"


def test_a_nested_call_wraps_each_item_of_the_inner_stream() -> None:
    route = called("registry-hub.call", {"method": "registry.get", "params": {"name": "a"}})
    first, second, last = items(route, '{"type":"backend","backend":null}')
    assert [first["content_type"], second["content_type"]] == ["registry-hub.call"] * 2
    inner = msgspec.convert(first["content"], dict[str, object])
    assert inner["content_type"] == "registry.get"
    assert msgspec.convert(second["content"], dict[str, object])["type"] == "done"
    assert last["type"] == "done"


def test_an_error_inside_a_nested_call_has_no_code() -> None:
    first, last = items(called("registry-hub.call", {"method": "foo.bar"}))
    inner = msgspec.convert(first["content"], dict[str, object])
    assert inner["type"] == "error"
    assert "code" not in inner
    assert last["type"] == "done"


def test_unknown_members_of_a_call_are_ignored() -> None:
    route = called("registry.get", {"name": "a"}, hop={"principal": "p", "limit": 3})
    assert route.source == methods.Get(name="a")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("registry-hub.call", None),
        ("registry-hub.call", {}),
        ("registry-hub.call", {"params": {}}),
        ("registry-hub.call", {"method": 5}),
        ("registry-hub.call", []),
        ("registry-hub.call", 5),
        ("registry-hub.schema", {"method": "nope"}),
        ("registry-hub.schema", {"method": 5}),
        ("registry_get", {}),
        ("registry_get", {"name": 5}),
        ("registry-hub.respond", {"request_id": "r1", "response_data": {}}),
        ("registry-hub.respond", None),
    ],
)
def test_what_is_refused_before_it_is_acknowledged(method: str, params: object) -> None:
    with pytest.raises(InvalidParamsError):
        HUB.route(method, params)


@pytest.mark.parametrize("params", [None, [], {}, 5, "x", {"nonce": "n"}, [[[]]]])
def test_info_takes_any_parameters(params: object) -> None:
    route = stream("_info", params)
    assert notification(route) == "result"
    data, _ = items(route)
    assert data["content"] == {
        "backend": "registry-hub",
        "version": pytest.importorskip("plexus_registry").__version__,
        "auth_capabilities": {"mechanisms": [{"kind": "anonymous"}]},
        "limits": {
            "message_bytes": 1048576,
            "batch_requests": 1000,
            "subscriptions": 1024,
            "nesting": 64,
            "unread_bytes": 16777216,
        },
    }


def test_the_direct_way_in() -> None:
    assert HUB.route("registry.get", ["a"]) == methods.Get(name="a")
    with pytest.raises(InvalidParamsError, match="did you mean name"):
        HUB.route("registry.get", {"nme": 1, "name": "a"})
    for spelling in ("activeOnly", "active_only"):
        assert stream("registry_list", {spelling: False}) == (
            stream("registry_list", {"active_only": False, "bogus": 1})
        )
    underscored = stream("registry_list", {"activeOnly": False, "bogus": 1})
    assert notification(underscored) == "registry_list"
    assert underscored.source == methods.List(active_only=False)
    assert stream("registry_get", ["a"]).source == methods.Get(name="a")


@pytest.mark.parametrize(
    ("method", "of"),
    [
        ("_info_unsub", "_info"),
        ("registry-hub.call_unsub", "registry-hub.call"),
        ("registry-hub.hash_unsub", "registry-hub.hash"),
        ("registry-hub.schema_unsub", "registry-hub.schema"),
        ("registry_unsubscribe_get", "registry_get"),
    ],
)
def test_every_stream_has_its_unsubscribe(method: str, of: str) -> None:
    assert HUB.route(method, [12]) == Unsubscribe(of, 12)
    for malformed in (None, [], ["12"], [True], [1.0], {"id": 1}, [1, 2]):
        assert HUB.route(method, malformed) == Unsubscribe(of, None)


def test_a_hub_that_would_hide_the_registry_is_refused() -> None:
    with pytest.raises(ValueError, match="would hide"):
        Hub("registry")


def test_a_hub_may_have_another_name_and_other_mechanisms() -> None:
    bearer = {"kind": "bearer", "header": "X-Plexus-API-Key"}
    hub = Hub("my-hub", mechanisms=(bearer,))
    route = hub.route("my-hub.call", {"method": "my-hub.hash"})
    assert isinstance(route, Stream)
    assert items(route)[0]["content_type"] == "my-hub.hash"
    info = hub.route("_info", None)
    assert isinstance(info, Stream)
    content = msgspec.convert(items(info)[0]["content"], dict[str, object])
    assert content["auth_capabilities"] == {"mechanisms": [bearer]}
    with pytest.raises(MethodNotFoundError):
        hub.route("registry-hub.call", {"method": "registry.list"})


def test_the_items_of_a_stream_carry_the_time_at_which_they_are_made() -> None:
    route = called("registry.get", {"name": "a"})
    for now in (NOW, NOW, NOW + 1, NOW):
        for frame in route.encoder.whole(1, "null", now=now):
            result = msgspec.json.decode(frame)["params"]["result"]
            assert result["metadata"] == {
                "provenance": ["registry"],
                "plexus_hash": HUB_HASH,
                "timestamp": now,
            }
