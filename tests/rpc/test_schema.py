"""What clients build on: the dialect of the schemas, and hashes that move with the surface."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import ClassVar

import msgspec
import pytest

from plexus_registry.rpc import schema as schema_module
from plexus_registry.rpc.schema import SCHEMA_METHOD, hub_plugin, registry_plugin
from plexus_registry.rpc.streams import CallFailure, Level, StreamEncoder
from plexus_registry.rules.backend import FIELDS, Backend, Register
from plexus_registry.rules.events import EVENTS
from plexus_registry.rules.methods import METHODS, Method
from plexus_registry.rules.parameters import Parameter

Json = dict[str, object]
REGISTRY = registry_plugin()
HUB = hub_plugin("registry-hub", REGISTRY)
HEX16 = re.compile(r"[0-9a-f]{16}")


def methods(plugin: schema_module.Plugin) -> list[Json]:
    return msgspec.convert(plugin.schema()["methods"], list[Json])


def all_objects(value: object) -> list[Json]:
    """Every object in a schema."""
    if isinstance(value, list):
        return [found for each in value for found in all_objects(each)]
    if isinstance(value, dict):
        return [value, *(found for each in value.values() for found in all_objects(each))]
    return []


def test_every_method_is_described_once_and_schema_comes_last() -> None:
    names = [method["name"] for method in methods(REGISTRY)]
    assert names == [*(method.name for method in METHODS), "schema"]
    assert [method["name"] for method in methods(HUB)] == ["call", "hash", "hashes", "schema"]


@pytest.mark.parametrize("plugin", [REGISTRY, HUB], ids=["registry", "hub"])
def test_the_members_that_clients_need(plugin: schema_module.Plugin) -> None:
    described = plugin.schema()
    for member in ("namespace", "version", "description", "self_hash", "hash"):
        assert isinstance(described[member], str)
    for method in methods(plugin):
        assert isinstance(method["streaming"], bool)
        assert method["streaming"] == (method["name"] in ("call", "watch"))
        assert method["http_method"] == "POST"
        assert method["role"] == {"kind": "rpc"}
        assert ("returns" in method) == (method != SCHEMA_METHOD)


def test_a_leaf_has_no_children_and_the_hub_names_its_child() -> None:
    assert "children" not in REGISTRY.schema()
    assert HUB.schema()["children"] == [
        {
            "namespace": "registry",
            "description": REGISTRY.description,
            "hash": REGISTRY.schema()["hash"],
        }
    ]


def test_parameters_say_what_the_table_says() -> None:
    for method, described in zip(METHODS, methods(REGISTRY), strict=False):
        if not method.command.parameters:
            assert "params" not in described
            continue
        params = msgspec.convert(described["params"], Json)
        properties = msgspec.convert(params["properties"], dict[str, Json])
        assert list(properties) == [each.name for each in method.command.parameters]
        required = [each.name for each in method.command.parameters if each.required]
        assert params.get("required", []) == required
        for parameter in method.command.parameters:
            described_parameter = properties[parameter.name]
            assert described_parameter["description"] == parameter.doc
            kind = parameter.values.schema["type"]
            if parameter.required:
                assert described_parameter["type"] == kind
                assert "default" not in described_parameter
            else:
                assert described_parameter["type"] == [kind, "null"]
                assert described_parameter["default"] is None


def test_what_methods_return_is_a_union_of_inline_objects_with_a_constant_type() -> None:
    for method in methods(REGISTRY)[:-1]:
        returns = msgspec.convert(method["returns"], Json)
        variants = msgspec.convert(returns["oneOf"], list[Json])
        assert len(variants) == len(EVENTS)
        for variant in variants:
            properties = msgspec.convert(variant["properties"], dict[str, Json])
            assert isinstance(properties["type"]["const"], str)
            assert "type" in msgspec.convert(variant["required"], list[str])


def test_a_call_returns_one_of_the_items_that_a_stream_has() -> None:
    returns = msgspec.convert(methods(HUB)[0]["returns"], Json)
    variants = msgspec.convert(returns["oneOf"], list[Json])
    by_kind = {
        msgspec.convert(each["properties"], dict[str, Json])["type"]["const"]: each
        for each in variants
    }
    level = Level("registry", "registry.list")
    encoder = StreamEncoder("m", "m", "0" * 16, (level,))
    failure = CallFailure("no", -32601, {"kind": "routing"})
    data, done = results(encoder, "{}")
    (error,) = results(encoder, failure)
    said = {"data": data, "error": error, "done": done}
    assert by_kind.keys() == said.keys()
    for kind, item in said.items():
        described = msgspec.convert(by_kind[kind]["properties"], dict[str, object])
        assert described.keys() == item.keys()
    inner, _ = results(encoder.inside(level), failure)
    assert set(msgspec.convert(by_kind["error"]["required"], list[str])) == (
        msgspec.convert(inner["content"], Json).keys()
    )


def results(encoder: StreamEncoder, outcome: str | CallFailure) -> list[Json]:
    frames = encoder.whole(1, outcome, now=1)
    return [msgspec.json.decode(frame)["params"]["result"] for frame in frames]


@pytest.mark.parametrize("plugin", [REGISTRY, HUB], ids=["registry", "hub"])
def test_a_method_carries_every_type_that_it_refers_to(plugin: schema_module.Plugin) -> None:
    for method in methods(plugin):
        for part in ("params", "returns"):
            schema = msgspec.convert(method.get(part, {}), Json)
            defined = msgspec.convert(schema.get("$defs", {}), Json)
            for each in all_objects(schema):
                if "$ref" in each:
                    assert str(each["$ref"]).removeprefix("#/$defs/") in defined


def test_the_backend_is_described_as_it_is_sent() -> None:
    returns = msgspec.convert(methods(REGISTRY)[0]["returns"], dict[str, object])
    definitions = msgspec.convert(returns["$defs"], dict[str, Json])
    info = definitions["BackendInfo"]
    properties = msgspec.convert(info["properties"], dict[str, Json])
    assert list(properties) == list(Backend.__struct_fields__)
    assert properties["last_seen"]["type"] == ["integer", "null"]
    assert properties["source"] == {"$ref": "#/$defs/BackendSource"}
    assert properties["port"]["minimum"] == 0
    assert "last_seen" not in msgspec.convert(info["required"], list[str])


def test_no_default_but_null_and_no_union_where_a_type_array_will_do() -> None:
    for described in all_objects([REGISTRY.schema(), HUB.schema()]):
        assert described.get("default") is None
        if "anyOf" in described:
            alternatives = msgspec.convert(described["anyOf"], list[Json])
            assert all("$ref" in each or each == {"type": "null"} for each in alternatives)


def test_names_survive_a_round_trip_through_camel_case() -> None:
    for described in all_objects([REGISTRY.schema(), HUB.schema()]):
        for name in msgspec.convert(described.get("properties", {}), dict[str, object]):
            assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name)


def test_hashes_are_16_hex_digits_and_differ_from_each_other_where_clients_compare() -> None:
    hashes = [REGISTRY.hash, REGISTRY.self_hash, HUB.hash, HUB.self_hash, HUB.children_hash]
    hashes += [str(method["hash"]) for method in (*methods(REGISTRY)[:-1], *methods(HUB)[:-1])]
    assert all(HEX16.fullmatch(str(each)) for each in hashes)
    assert len(set(hashes)) == len(hashes)


def test_hashes_are_the_same_in_another_process() -> None:
    script = (
        "from plexus_registry.rpc.schema import *;"
        "r = registry_plugin(); print(r.hash, hub_plugin('registry-hub', r).hash)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "7"},
    ).stdout
    assert printed.split() == [REGISTRY.hash, HUB.hash]


def test_hashes_change_with_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Method("register", METHODS[0].doc, RegisterWithOneMore)
    monkeypatch.setattr(schema_module, "METHODS", (changed, *METHODS[1:]))
    other = registry_plugin()
    assert other.hash != REGISTRY.hash
    assert other.self_hash != REGISTRY.self_hash
    assert hub_plugin("registry-hub", other).hash != HUB.hash
    same = {str(each["name"]): each["hash"] for each in methods(REGISTRY)}
    for method in methods(other):
        assert (method["hash"] == same[str(method["name"])]) == (method["name"] != "register")


class RegisterWithOneMore(Register, frozen=True):
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *Register.parameters,
        Parameter("more", FIELDS["version"].values, "One more."),
    )


def test_the_schema_of_one_method_is_a_plugin_schema_with_just_that() -> None:
    one = REGISTRY.schema("list")
    assert one["namespace"] == "registry"
    assert [each["name"] for each in msgspec.convert(one["methods"], list[Json])] == ["list"]
    assert one["hash"] != REGISTRY.hash
