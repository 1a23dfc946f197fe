"""The schemas that describe the registry to clients, and their hashes; made once.

Everything comes from the table of methods and the event types; nothing about a method is
written here. A hash changes with the described surface only.

Source: manual/protocol.md, "Schemas" and "Hashes".
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rpc.json_schema import (
    events_schema,
    object_schema,
    parameters_schema,
    titled,
)
from plexus_registry.rules.methods import METHODS, NAMESPACE, Method

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plexus_registry.rpc.json_schema import Schema

SURFACE_VERSION = "1.0.0"

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
        about = [namespace, SURFACE_VERSION, description]
        self.self_hash = digest([*about, *(each["hash"] for each in self._methods.values())])
        self.children_hash = (
            digest([child.hash for child in self.children]) if self.children else None
        )
        parts = (self.self_hash, self.children_hash)
        self.hash: str = digest([part for part in parts if part is not None])

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
        self_hash = digest([self.namespace, SURFACE_VERSION, self.description, method["hash"]])
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
                method.name,
                method.doc,
                params=_params(method),
                returns=returns,
                streaming=method.streaming,
            )
            for method in METHODS
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
    a_hash: Schema = {"type": "string"}
    hash_event = object_schema({"event": {"type": "string", "const": "hash"}, "value": a_hash})
    hashes = object_schema(
        {
            "namespace": {"type": "string"},
            "self_hash": a_hash,
            "children_hash": a_hash,
            "hash": a_hash,
            "children": {
                "type": "array",
                "items": object_schema({"namespace": {"type": "string"}, "hash": a_hash}),
            },
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
    # An error item inside another stream has no code.
    optional = {"code"}
    variants = []
    for kind, own in members.items():
        variant = object_schema({"type": {**text, "const": kind}, "metadata": shared, **own})
        required = [name for name in ("type", "metadata", *own) if name not in optional]
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


def _params(method: Method) -> Schema | None:
    parameters = method.command.parameters
    return parameters_schema(parameters) if parameters else None
