"""The schemas that describe the registry to clients, and their hashes; made once.

Everything comes from the table of methods and the event types; nothing about a method is
written here. A hash changes with the described surface only.

Clients build command lines and trees from these schemas. For them, nullable types are type arrays,
unions are inline objects with a constant `type`, and every default is null.

Source: manual/protocol.md, "Schemas" and "Hashes".
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect

from plexus_registry.rules.backend import FIELDS, Backend, Health, Source, State
from plexus_registry.rules.events import (
    EVENTS,
    Cause,
    Failed,
    LoggedChange,
    Origin,
    encode_value,
)
from plexus_registry.rules.methods import METHODS, NAMESPACE
from plexus_registry.rules.states import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plexus_registry.rules.parameters import Parameter

Schema = dict[str, object]
_TEXT: Schema = {"type": "string"}

SURFACE_VERSION = "1.0.0"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

SCHEMA_METHOD: Schema = {
    "name": "schema",
    "description": 'Get plugin or method schema. Pass {"method": "name"} for a specific method.',
    "hash": "auto_schema",
    "streaming": False,
    "bidirectional": False,
    "http_method": "POST",
    "role": {"kind": "rpc"},
}
"""Every activation has it, last of its methods. Source: manual/protocol.md, "Schemas"."""


def digest(value: object) -> str:
    """Hash a JSON value: SHA-256 of its canonical text, cut to 16 hex digits."""
    canonical = msgspec.json.encode(value, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()[:16]


class Plugin:
    """One activation's schema, whole or reduced to one method.

    Attributes:
        methods: The MethodSchema of each method, by name.
        hash: The hash of the whole schema.
        self_hash: The hash of its own methods.
        children_hash: The hash of its child; None for a leaf.
    """

    def __init__(
        self,
        namespace: str,
        description: str,
        methods: Iterable[Schema],
        child: Plugin | None = None,
    ) -> None:
        self.namespace = namespace
        self.description = description
        self.methods = {str(method["name"]): method for method in (*methods, SCHEMA_METHOD)}
        self.self_hash = self._hash_of(self.methods.values())
        self.children_hash = None if child is None else digest([child.hash])
        self.hash: str = digest([self.self_hash, *([self.children_hash] if child else [])])
        self._child = child

    @cached_property
    def text(self) -> str:
        """The whole PluginSchema as JSON text."""
        return encode_value(self.schema())

    def _hash_of(self, methods: Iterable[Schema]) -> str:
        about = [self.namespace, SURFACE_VERSION, self.description]
        return digest([*about, *(each["hash"] for each in methods)])

    def schema(self, only: str | None = None) -> Schema:
        """Make the PluginSchema, whole or with one of the methods only."""
        child = self._child if only is None else None
        self_hash, whole_hash = self.self_hash, self.hash
        methods = [*self.methods.values()]
        if only is not None:
            methods = [self.methods[only]]
            self_hash = self._hash_of(methods)
            whole_hash = digest([self_hash])
        schema: Schema = {
            "namespace": self.namespace,
            "version": SURFACE_VERSION,
            "description": self.description,
            "self_hash": self_hash,
            **({"children_hash": self.children_hash} if child else {}),
            "hash": whole_hash,
            "methods": methods,
        }
        if child is not None:
            names = ("namespace", "description", "hash")
            schema["children"] = [{name: getattr(child, name) for name in names}]
        return schema


def registry_plugin() -> Plugin:
    """Describe the activation that holds the registry's methods."""
    returns = _events_schema()
    methods = [
        _method_schema(
            each.name,
            each.doc,
            params=_parameters_schema(each.command.parameters),
            returns=returns,
            streaming=each.streaming,
        )
        for each in METHODS
    ]
    about = "Backend discovery and registration service for Plexus hubs"
    return Plugin(NAMESPACE, about, methods)


def hub_plugin(namespace: str, registry: Plugin) -> Plugin:
    """Describe the hub that routes to it."""
    call_params: Schema = {
        "type": "object",
        "properties": {
            "method": {"description": "The method to call, with its path", **_TEXT},
            "params": {"description": "The parameters of that method", "default": None},
        },
        "required": ["method"],
    }
    hash_event = _object_schema({"event": {**_TEXT, "const": "hash"}, "value": _TEXT})
    children = _object_schema({"namespace": _TEXT, "hash": _TEXT})
    hashes = _object_schema(
        {
            **dict.fromkeys(("namespace", "self_hash", "children_hash", "hash"), _TEXT),
            "children": {"type": "array", "items": children},
        }
    )
    methods = [
        _method_schema(
            "call",
            "Route a call to a method",
            params=call_params,
            returns=_stream_item_schema(),
            streaming=True,
        ),
        _method_schema(
            "hash", "Get the hash of the whole hub", returns=_titled("HashEvent", hash_event)
        ),
        _method_schema(
            "hashes", "Get the hashes of hub and children", returns=_titled("Hashes", hashes)
        ),
    ]
    return Plugin(namespace, "Central routing and introspection", methods, registry)


def _stream_item_schema() -> Schema:
    """Describe the items of a call: data, and at the end an error or `done`."""
    members: dict[str, Schema] = {
        "data": {"content_type": _TEXT, "content": {"description": "What the method reports"}},
        "error": {
            **dict.fromkeys(("message", "code", "error_kind"), _TEXT),
            "error": {"type": "object", "additionalProperties": True},
            "recoverable": {"type": "boolean"},
        },
        "done": {},
    }
    shared: Schema = {"$ref": "#/$defs/StreamMetadata"}
    metadata = _object_schema(
        {
            "provenance": {"type": "array", "items": _TEXT},
            "plexus_hash": _TEXT,
            "timestamp": {"type": "integer", "format": "int64"},
        }
    )
    variants = []
    for kind, own in members.items():
        variant = _object_schema({"type": {**_TEXT, "const": kind}, "metadata": shared, **own})
        # An error item inside another stream has no code.
        required = [name for name in ("type", "metadata", *own) if name != "code"]
        variants.append({**variant, "required": required})
    return _titled("StreamItem", {"oneOf": variants, "$defs": {"StreamMetadata": metadata}})


def _method_schema(
    name: str,
    description: str,
    *,
    params: Schema | None = None,
    returns: Schema,
    streaming: bool = False,
) -> Schema:
    """Make a MethodSchema with its hash."""
    described: Schema = {"name": name, "description": description}
    shape: Schema = {
        **({} if params is None else {"params": params}),
        "returns": returns,
        "streaming": streaming,
        "bidirectional": False,
        "http_method": "POST",
        "role": {"kind": "rpc"},
    }
    return {**described, "hash": digest({**described, **shape}), **shape}


def _titled(title: str, schema: Schema) -> Schema:
    """Make a schema that stands by itself."""
    return {"$schema": _DIALECT, "title": title, **schema}


def _object_schema(properties: Mapping[str, object]) -> Schema:
    """Describe an object that has all of some properties."""
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _parameters_schema(parameters: Sequence[Parameter]) -> Schema | None:
    """Describe the parameters of a method, as one object; None if it has none."""
    if not parameters:
        return None
    properties = {each.name: _parameter(each) for each in parameters}
    required = [each.name for each in parameters if each.required]
    schema: Schema = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


def _parameter(parameter: Parameter) -> Schema:
    schema: Schema = {"description": parameter.doc, **parameter.values.schema}
    return schema if parameter.required else {**_nullable(schema), "default": None}


def _nullable(schema: Schema) -> Schema:
    """Allow null: with a type array if there is a type, since clients read that best."""
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _events_schema() -> Schema:
    """Describe the union of all events."""
    return {
        "$schema": _DIALECT,
        "title": "RegistryEvent",
        "description": "Events emitted by registry methods",
        "oneOf": [_struct(event) for event in EVENTS],
        "$defs": {
            "BackendInfo": _struct(Backend),
            "BackendSource": {
                "oneOf": [
                    {"description": f"Stated by {source}", "type": "string", "const": source}
                    for source in Source
                ]
            },
            "BackendHealth": _struct(Health),
            "BackendState": {"type": "string", "enum": list(State)},
            "ProbeStep": _struct(Step),
            "LoggedChange": _struct(LoggedChange),
            "ChangeCause": _struct(Cause),
            "ChangeOrigin": {"type": "string", "enum": list(Origin)},
        },
    }


def _struct(struct: type[msgspec.Struct]) -> Schema:
    """Describe a record; an event has its constant `type` first."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - what type_info gives for one
    properties: Schema = {}
    required = []
    if info.tag is not None:
        properties["type"] = {"type": "string", "const": info.tag}
        required.append("type")
    for field in info.fields:
        # An adopted database may hold a port that nobody could register.
        is_port = field.encode_name == "port"
        properties[field.encode_name] = _ANY_PORT if is_port else _type(field.type)
        if field.required:
            required.append(field.encode_name)
    schema: Schema = {
        "description": (struct.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "required": required,
    }
    # A refusal carries what its caller needs to act, and that depends on the refusal.
    return {**schema, "additionalProperties": True} if struct is Failed else schema


_ANY_PORT = {**FIELDS["port"].values.schema, "minimum": 0}
_DEFINED: Mapping[type, str] = {
    Backend: "BackendInfo",
    Source: "BackendSource",
    Health: "BackendHealth",
    State: "BackendState",
    Step: "ProbeStep",
    LoggedChange: "LoggedChange",
    Cause: "ChangeCause",
    Origin: "ChangeOrigin",
}


def _type(kind: inspect.Type) -> Schema:
    match kind:
        case inspect.StrType():
            return _TEXT
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "integer", "format": "int64"}
        case inspect.FloatType():
            return {"type": "number"}
        case inspect.EnumType(cls=cls) | inspect.StructType(cls=cls):
            return {"$ref": f"#/$defs/{_DEFINED[cls]}"}
        case inspect.VarTupleType(item_type=item):
            return {"type": "array", "items": _type(item)}
        case inspect.UnionType(types=types):
            (inner,) = (each for each in types if not isinstance(each, inspect.NoneType))
            return _nullable(_type(inner))
        case _:
            raise NotImplementedError(f"no schema for {kind}")
