"""The schemas that describe the registry to clients, and their hashes; made once.

Everything comes from the table of methods and the event types; nothing about a method is
written here. A hash changes with the described surface only.

Clients build command lines and trees from these schemas. For them, nullable types are type arrays,
unions are inline objects with a constant `type`, and every default is null.

Source: manual/protocol.md, "Schemas" and "Hashes".
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect

from plexus_registry.rules.backend import FIELDS, Backend, Health, Source, State
from plexus_registry.rules.events import EVENTS, Failed
from plexus_registry.rules.methods import METHODS, NAMESPACE
from plexus_registry.rules.states import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plexus_registry.rules.parameters import Parameter

Schema = dict[str, object]

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
        hash: The hash of the whole schema.
        self_hash: The hash of its own methods.
        children_hash: The hash of its children; None for a leaf.
    """

    def __init__(
        self,
        namespace: str,
        description: str,
        methods: Iterable[Schema],
        children: Iterable[Plugin] = (),
    ) -> None:
        self.namespace = namespace
        self.description = description
        self.children = tuple(children)
        self._methods = {str(method["name"]): method for method in (*methods, SCHEMA_METHOD)}
        self.self_hash = self._hash_of(self._methods.values())
        self.children_hash: str | None = None
        parts = [self.self_hash]
        if self.children:
            self.children_hash = digest([child.hash for child in self.children])
            parts.append(self.children_hash)
        self.hash: str = digest(parts)

    def _hash_of(self, methods: Iterable[Schema]) -> str:
        about = [self.namespace, SURFACE_VERSION, self.description]
        return digest([*about, *(each["hash"] for each in methods)])

    def schema(self) -> Schema:
        """The PluginSchema."""
        return self._schema(self.self_hash, self.hash, self._methods.values(), self.children)

    def method_schema(self, name: str) -> Schema | None:
        """The MethodSchema of one method, if it has that method."""
        return self._methods.get(name)

    def schema_of_one(self, name: str) -> Schema | None:
        """The PluginSchema with one method only, if it has that method."""
        method = self._methods.get(name)
        if method is None:
            return None
        self_hash = self._hash_of([method])
        return self._schema(self_hash, digest([self_hash]), [method], ())

    def method_names(self) -> tuple[str, ...]:
        """The names of all its methods."""
        return tuple(self._methods)

    def _schema(
        self,
        self_hash: str,
        whole_hash: str,
        methods: Iterable[Schema],
        children: tuple[Plugin, ...],
    ) -> Schema:
        schema: Schema = {
            "namespace": self.namespace,
            "version": SURFACE_VERSION,
            "description": self.description,
            "self_hash": self_hash,
        }
        if children:
            schema["children_hash"] = self.children_hash
        schema["hash"] = whole_hash
        schema["methods"] = list(methods)
        if children:
            schema["children"] = [
                {"namespace": each.namespace, "description": each.description, "hash": each.hash}
                for each in children
            ]
        return schema


def registry_plugin() -> Plugin:
    """The activation that holds the registry's methods."""
    returns = events_schema()
    return Plugin(
        NAMESPACE,
        "Backend discovery and registration service for Plexus hubs",
        [
            method_schema(
                each.name,
                each.doc,
                params=parameters_schema(each.command.parameters),
                returns=returns,
                streaming=each.streaming,
            )
            for each in METHODS
        ],
    )


def hub_plugin(namespace: str, registry: Plugin) -> Plugin:
    """The hub that routes to it."""
    any_params = {"description": "The parameters of that method", "default": None}
    call_params: Schema = {
        "type": "object",
        "properties": {
            "method": {"description": "The method to call, with its path", "type": "string"},
            "params": any_params,
        },
        "required": ["method"],
    }
    text: Schema = {"type": "string"}
    hash_event = object_schema({"event": {**text, "const": "hash"}, "value": text})
    children = object_schema({"namespace": text, "hash": text})
    hashes = object_schema(
        {
            **dict.fromkeys(("namespace", "self_hash", "children_hash", "hash"), text),
            "children": {"type": "array", "items": children},
        }
    )
    methods = [
        method_schema(
            "call",
            "Route a call to a method",
            params=call_params,
            returns=_stream_item_schema(),
            streaming=True,
        ),
        method_schema(
            "hash", "Get the hash of the whole hub", returns=titled("HashEvent", hash_event)
        ),
        method_schema(
            "hashes", "Get the hashes of hub and children", returns=titled("Hashes", hashes)
        ),
    ]
    return Plugin(namespace, "Central routing and introspection", methods, [registry])


def _stream_item_schema() -> Schema:
    """Describe the items of a call: data, and at the end an error or `done`."""
    text: Schema = {"type": "string"}
    members: dict[str, Schema] = {
        "data": {"content_type": text, "content": {"description": "What the method reports"}},
        "error": {
            "message": text,
            "code": text,
            "error_kind": text,
            "error": {"type": "object", "additionalProperties": True},
            "recoverable": {"type": "boolean"},
        },
        "done": {},
    }
    shared: Schema = {"$ref": "#/$defs/StreamMetadata"}
    metadata = object_schema(
        {
            "provenance": {"type": "array", "items": text},
            "plexus_hash": text,
            "timestamp": {"type": "integer", "format": "int64"},
        }
    )
    variants = []
    for kind, own in members.items():
        variant = object_schema({"type": {**text, "const": kind}, "metadata": shared, **own})
        # An error item inside another stream has no code.
        required = [name for name in ("type", "metadata", *own) if name != "code"]
        variants.append({**variant, "required": required})
    return titled("StreamItem", {"oneOf": variants, "$defs": {"StreamMetadata": metadata}})


def method_schema(
    name: str,
    description: str,
    *,
    params: Schema | None = None,
    returns: Schema,
    streaming: bool = False,
) -> Schema:
    """Make a MethodSchema with its hash; without `params` if it has none."""
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


def titled(title: str, schema: Schema) -> Schema:
    """Add dialect and title to a schema that stands by itself."""
    return {"$schema": _DIALECT, "title": title, **schema}


def object_schema(properties: Mapping[str, object]) -> Schema:
    """Describe an object that has all of some properties."""
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def parameters_schema(parameters: Sequence[Parameter]) -> Schema | None:
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


def events_schema() -> Schema:
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
}


def _type(kind: inspect.Type) -> Schema:
    match kind:
        case inspect.StrType():
            return {"type": "string"}
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
