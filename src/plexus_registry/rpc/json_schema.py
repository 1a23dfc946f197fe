"""Records as JSON Schema: the parameters of methods, and the events that they report.

Clients build command lines and trees from these schemas. For them, nullable types are type arrays,
unions are inline objects with a constant `type`, and every default is null.

Source: manual/protocol.md, "Schemas".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect

from plexus_registry.rules.backend import FIELDS, Backend, Health, Source, State
from plexus_registry.rules.events import EVENTS, Failed
from plexus_registry.rules.probe_results import Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plexus_registry.rules.parameters import Parameter

Schema = dict[str, object]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def titled(title: str, schema: Schema) -> Schema:
    """Add dialect and title to a schema that stands by itself."""
    return {"$schema": _DIALECT, "title": title, **schema}


def object_schema(properties: Mapping[str, object]) -> Schema:
    """Describe an object that has all of some properties."""
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def parameters_schema(parameters: Sequence[Parameter]) -> Schema:
    """Describe the parameters of a method, as one object."""
    schema: Schema = {
        "type": "object",
        "properties": {each.name: _parameter(each) for each in parameters},
    }
    required = [each.name for each in parameters if each.required]
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
        properties[field.encode_name] = _field(field)
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


def _field(field: inspect.Field) -> Schema:
    if field.encode_name == "port":
        # An adopted database may hold a port that nobody could register.
        return {**FIELDS["port"].values.schema, "minimum": 0}
    return _type(field.type)


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
