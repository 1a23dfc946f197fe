"""Calls on literal records of one name, and what they must leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules import operations
from plexus_registry.rules.backend import Backend, Layer, Record, Register, Source, Update
from plexus_registry.rules.operations import Decision, Records, effective
from tests.fields import OPTIONAL

if TYPE_CHECKING:
    from plexus_registry.rules.errors import MethodError

RUNTIME, DATABASE, ENV, FILE = Layer.RUNTIME, Layer.DATABASE, Layer.ENV, Layer.FILE
ADOPTED, AUTO = Layer.ADOPTED, Layer.AUTO
NOW = 2000

BASE = Backend(
    id="id-old",
    name="a",
    host="old",
    port=1,
    protocol="ws",
    description="kept",
    namespace="ns",
    version="1",
    metadata='{"pid":1}',
    source=Source.MANUAL,
    is_active=True,
    registered_at=1000,
    created_at=1000,
    updated_at=1000,
)


def stated(layer: Layer, **fields: object) -> Record:
    return Record(name="a", layer=layer, backend=msgspec.structs.replace(BASE, **fields))


def deleted(layer: Layer) -> Record:
    return Record(name="a", layer=layer, backend=None)


def register(**fields: object) -> Register:
    values: dict[str, object] = {"name": "a", "host": "old", "port": 1, **fields}
    return msgspec.convert(values, Register)


def update(**fields: object) -> Update:
    return msgspec.convert({"name": "a", **fields}, Update)


@dataclass(frozen=True)
class Case:
    """A call, and what it leaves: the layers stated, and fields of what the name then means."""

    sentence: str
    before: tuple[Record, ...]
    call: str | Register | Update
    layers: tuple[Layer, ...]
    expected: dict[str, object] = field(default_factory=dict)
    is_sign_of_life: bool = False


NEW = {"id": "id-new", "created_at": NOW, "registered_at": NOW, "updated_at": NOW}
FRESH = {**NEW, "last_seen": None, "is_active": True}
KEPT: dict[str, object] = {"id": "id-old", "created_at": 1000}
ELSEWHERE: dict[str, object] = {"host": "new", "port": 2, "protocol": "wss"}
BARE = dict.fromkeys(OPTIONAL)
HEARD: dict[str, object] = {"last_seen": 1500}
GONE: dict[str, object] = {"is_active": False}


def carry_out(records: Records, call: str | Register | Update) -> Decision | MethodError:
    if isinstance(call, Register):
        return operations.register(records, call, now=NOW, new_id="id-new")
    if isinstance(call, Update):
        return operations.update(records, call, now=NOW)
    if call == "ping":
        return operations.ping(records, "a", now=NOW)
    if call == "deregister":
        return operations.deregister(records, "a", now=NOW)
    assert call == "delete"
    return operations.delete(records, "a")


def check(case: Case) -> None:
    decision = carry_out(case.before, case.call)
    assert isinstance(decision, Decision)
    assert tuple(record.layer for record in decision.records) == case.layers
    assert decision.is_sign_of_life == case.is_sign_of_life
    meant = effective(decision.records)
    if case.call == "delete":
        assert meant is None
        return
    assert meant == decision.backend
    values = msgspec.structs.asdict(decision.backend)
    assert {name: values[name] for name in case.expected} == case.expected
