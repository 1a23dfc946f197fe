"""Schemas as clients read them: what a hub says of itself, and the JSON Schema dialect.

Source: manual/protocol.md, "Schemas".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.peers.frames import (
    ViolationError,
    an_array,
    an_object,
    member,
    only,
    optional,
    read_hash,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = ("rpc", "static_child", "dynamic_child")
HTTP_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
SYNTHETIC = "schema"
"""The method that every activation has; its schema is fixed, and without `returns`."""

_SCALARS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
    "object": dict,
    "array": list,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSchema:
    """One method; `params` and `returns` are JSON Schemas."""

    name: str
    description: str
    hash: str
    streaming: bool
    params: dict[str, object] | None
    returns: dict[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSummary:
    """What a hub says of a child."""

    namespace: str
    description: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSchema:
    """One hub or activation; without `children` it is a leaf."""

    namespace: str
    version: str
    description: str
    hash: str
    methods: dict[str, MethodSchema]
    children: dict[str, ChildSummary] | None


def read_plugin(value: object) -> PluginSchema:
    """Read a PluginSchema.

    Raises:
        ViolationError: A client could not.
    """
    schema = an_object(value, "PluginSchema")
    _without_nulls(schema, "PluginSchema")
    methods = [read_method(each) for each in an_array(schema.get("methods"), "methods")]
    for name in ("self_hash", *(("children_hash",) if "children" in schema else ())):
        read_hash(schema, name)
    optional(schema, "long_description", str, "PluginSchema")
    return PluginSchema(
        namespace=member(schema, "namespace", str, "PluginSchema"),
        version=member(schema, "version", str, "PluginSchema"),
        description=member(schema, "description", str, "PluginSchema"),
        hash=read_hash(schema, "hash"),
        methods=_by_name({method.name: method for method in methods}, len(methods)),
        children=_read_children(schema),
    )


def _by_name(methods: dict[str, MethodSchema], count: int) -> dict[str, MethodSchema]:
    if len(methods) < count:
        raise ViolationError(f"two methods of one name: {list(methods)}")
    return methods


def _read_children(schema: Mapping[str, object]) -> dict[str, ChildSummary] | None:
    if "children" not in schema:
        return None
    children = {}
    for value in an_array(schema["children"], "children"):
        child = an_object(value, "ChildSummary")
        only(child, {"namespace", "description", "hash"}, "ChildSummary")
        namespace = member(child, "namespace", str, "ChildSummary")
        children[namespace] = ChildSummary(
            namespace=_path_segment(namespace),
            description=member(child, "description", str, "ChildSummary"),
            hash=read_hash(child, "hash"),
        )
    if not children:
        raise ViolationError("children is empty: a leaf for Synapse, a hub for the web UI")
    return children


def read_method(value: object) -> MethodSchema:
    """Read a MethodSchema.

    Raises:
        ViolationError: A client could not.
    """
    schema = an_object(value, "MethodSchema")
    _without_nulls(schema, "MethodSchema")
    if "methods" in schema or "namespace" in schema:
        raise ViolationError(f"Expected method schema, got a PluginSchema: {schema}")
    name = _path_segment(member(schema, "name", str, "MethodSchema"))
    role = member(an_object(schema.get("role"), "role"), "kind", str, "role")
    if role not in ROLES:
        raise ViolationError(f"role.kind is {role!r}: the whole schema fails")
    if member(schema, "http_method", str, "MethodSchema") not in HTTP_METHODS:
        raise ViolationError(f"http_method of {name}: {schema['http_method']}")
    member(schema, "bidirectional", bool, "MethodSchema")
    returns = an_object(schema["returns"], "returns") if "returns" in schema else None
    if returns is None and name != SYNTHETIC:
        raise ViolationError(f"method {name} has no returns")
    return MethodSchema(
        name=name,
        description=member(schema, "description", str, "MethodSchema"),
        hash=_method_hash(schema, name),
        streaming=member(schema, "streaming", bool, "MethodSchema"),
        params=_read_params(schema["params"]) if "params" in schema else None,
        returns=returns,
    )


def _method_hash(schema: Mapping[str, object], name: str) -> str:
    if name == SYNTHETIC and schema.get("hash") == "auto_schema":
        return "auto_schema"
    return read_hash(schema, "hash")


def _without_nulls(schema: Mapping[str, object], where: str) -> None:
    """What is unset is left out."""
    if nulls := [name for name, value in schema.items() if value is None]:
        raise ViolationError(f"{where} has null members {nulls}")


def _path_segment(name: str) -> str:
    """Synapse replaces `-` by `_` in a path, and would look for another name."""
    if "-" in name or "." in name or not name:
        raise ViolationError(f"{name!r} cannot be a path segment")
    return name


def _read_params(value: object) -> dict[str, object]:
    params = an_object(value, "params")
    if params.get("type") != "object" or "$schema" in params or "title" in params:
        raise ViolationError(f"params is no plain object schema: {params}")
    properties = an_object(params.get("properties"), "params.properties")
    if not properties:
        raise ViolationError("params is empty and not left out")
    for name in required_of(params):
        if name not in properties:
            raise ViolationError(f"{name} is required and no property: {params}")
    for name, property_value in properties.items():
        types_of(an_object(property_value, name), name)
    return params


def required_of(params: Mapping[str, object]) -> list[str]:
    """The names that must be given; `required` is left out where there are none."""
    if "required" not in params:
        return []
    required = an_array(params["required"], "required")
    if not required:
        raise ViolationError("required is empty and not left out")
    return [str(name) for name in required]


def types_of(schema: Mapping[str, object], name: str) -> list[str]:
    """The JSON types of a property, as Synapse types a flag from them.

    Raises:
        ViolationError: Synapse would take any value where the schema means one type, and send
            `123` for a string as a number.
    """
    if "$ref" in schema:
        return ["object"]
    if "type" not in schema and not schema.keys() & {"anyOf", "oneOf", "allOf"}:
        return list(_SCALARS)  # any value is meant
    given = schema.get("type")
    types = [given] if isinstance(given, str) else given
    if not isinstance(types, list) or not types or not set(types) <= set(_SCALARS):
        raise ViolationError(f"flag {name} degrades to any: {schema}")
    return [str(each) for each in types]


def arguments(method: MethodSchema, flags: Mapping[str, str]) -> dict[str, object] | None:
    """What Synapse sends for flags: typed by the schema, every `default` merged, nulls too.

    Args:
        method: The method that is called.
        flags: Values by flag, `active-only` for `--active-only`.

    Returns:
        The params; None where Synapse prints help instead of calling.

    Raises:
        ViolationError: A default would overwrite what is stored.
    """
    params = method.params or {}
    if required_of(params) and not flags:
        return None
    properties = an_object(params.get("properties", {}), "properties")
    given: dict[str, object] = {}
    for name, value in properties.items():
        schema = an_object(value, name)
        if schema.get("default") is not None:
            raise ViolationError(f"default of {method.name}.{name} is sent with every call")
        if "default" in schema:
            given[name] = None
    for flag, text in flags.items():
        name = flag.replace("-", "_")
        given[name] = _typed(text, types_of(an_object(properties.get(name), name), name))
    return given


def _typed(text: str, types: list[str]) -> object:
    if "string" in types:
        return text
    value: object = json.loads(text)
    return value


def variants(returns: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The variants of a tagged union by their tag.

    Raises:
        ViolationError: A variant is not inline, or has no tag: Synapse drops it silently.
    """
    member(returns, "title", str, "returns")
    found = {}
    for value in an_array(returns.get("oneOf"), "returns.oneOf"):
        variant = an_object(value, "variant")
        if "$ref" in variant:
            raise ViolationError(f"a variant is not inline: {variant}")
        properties = an_object(variant.get("properties"), "variant.properties")
        tag = an_object(properties.get("type"), "variant.properties.type")
        found[member(tag, "const", str, "variant.properties.type")] = variant
    return found


def insist_on(value: object, schema: Mapping[str, object], root: Mapping[str, object]) -> None:
    """Insist that a value is what a schema says, in the part of JSON Schema that is used here.

    Args:
        value: Any JSON value.
        schema: What it should be.
        root: The schema whose `$defs` are referred to.

    Raises:
        ViolationError: It is not.
    """
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        definitions = an_object(root.get("$defs"), "$defs")
        insist_on(value, an_object(definitions.get(name), f"$defs.{name}"), root)
    for union in ("oneOf", "anyOf"):
        if union in schema:
            _insist_on_one(value, an_array(schema[union], union), root)
    if "const" in schema and value != schema["const"]:
        raise ViolationError(f"{value!r} is not {schema['const']!r}")
    if "type" in schema and not any(_is_a(value, name) for name in types_of(schema, "value")):
        raise ViolationError(f"{value!r} is not of type {schema['type']}")
    if isinstance(value, int) and not isinstance(value, bool):
        _insist_on_range(value, schema)
    if isinstance(value, dict):
        _insist_on_members(value, schema, root)
    if isinstance(value, list) and "items" in schema:
        for each in value:
            insist_on(each, an_object(schema["items"], "items"), root)


def _insist_on_one(value: object, schemas: list[object], root: Mapping[str, object]) -> None:
    reasons = []
    for schema in schemas:
        try:
            insist_on(value, an_object(schema, "variant"), root)
        except ViolationError as error:
            reasons.append(str(error))
        else:
            return
    raise ViolationError(f"{value!r} is none of the variants: {reasons}")


def _is_a(value: object, name: str) -> bool:
    is_boolean = isinstance(value, bool)
    return isinstance(value, _SCALARS[name]) and is_boolean == (name == "boolean")


def _insist_on_range(value: int, schema: Mapping[str, object]) -> None:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    if not (isinstance(low, int) and isinstance(high, int) and low <= value <= high):
        raise ViolationError(f"{value} is not from {low} to {high}")


def _insist_on_members(
    value: Mapping[str, object], schema: Mapping[str, object], root: Mapping[str, object]
) -> None:
    for name in required_of(schema):
        if name not in value:
            raise ViolationError(f"{name} is required and missing: {value}")
    properties = an_object(schema.get("properties", {}), "properties")
    for name, each in value.items():
        if name in properties:
            insist_on(each, an_object(properties[name], name), root)
        elif properties:
            raise ViolationError(f"{name} is not described: {value}")
