"""The records of one name: which of them wins, and the effect of each call on them.

Theory of operation. Every layer may state a name once. In the merge, the record of the highest
layer wins, whole: fields of two records never mix. A tombstone wins like any record and then hides
the name. The result depends on what the layers contain, never on the order in which it came.

A rule takes a command and the records of one name, and returns a `Decision`: the records after it.
A refusal is a value too: a `MethodError` that is returned, not raised. What a call writes goes to
the layer `runtime` and replaces what a call of an earlier run left in `database`. Records of env,
file and auto stay as they were declared, except for their health. The lower layers show again once
the record above them is gone.

Source: manual/config.md, "Which source wins"; manual/methods.md, "Who gets a name".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from plexus_registry.rules.backend import (
    FIELDS,
    MANUAL_LAYERS,
    OPTIONAL,
    RANK,
    Backend,
    Layer,
    Record,
    Source,
)
from plexus_registry.rules.errors import MethodError, NameTaken, NotFound
from plexus_registry.rules.parameters import metadata_text
from plexus_registry.rules.states import Sign, after_sign, ping_changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from plexus_registry.rules.backend import Register, Update

Records = tuple[Record, ...]

_CLEARABLE = tuple(field.name for field in FIELDS.values() if field.is_clearable)


class Decision(NamedTuple):
    """The records of one name after a call.

    Attributes:
        records: All records of the name, highest layer first.
        backend: The backend that the call is answered with.
        is_sign_of_life: Whether the call shows that the backend is alive now.
    """

    records: Records
    backend: Backend
    is_sign_of_life: bool = False


Rule = Callable[[Records], Decision | MethodError]
"""Decides about the records of one name."""


def holder(records: Sequence[Record]) -> Record | None:
    """Find the record of the highest layer, a tombstone too; None if no layer states the name."""
    return min(records, key=lambda record: RANK[record.layer], default=None)


def effective(records: Sequence[Record]) -> Backend | None:
    """Find the backend of one name; None if no layer states it, or a tombstone holds it."""
    if len(records) == 1:  # as a rule
        return records[0].backend
    held = holder(records)
    return held.backend if held is not None else None


def merge(records: Iterable[Record]) -> dict[str, Backend]:
    """Find the backend of every name that exists.

    Args:
        records: Records of any names, in any order; each name and layer at most once.
    """
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(record.name, []).append(record)
    merged = {name: effective(stated) for name, stated in by_name.items()}
    return {name: backend for name, backend in merged.items() if backend is not None}


def stated(records: Records, layer: Layer) -> Record | None:
    """Find the record of one layer."""
    return next((record for record in records if record.layer is layer), None)


def without(records: Records, *layers: Layer) -> Records:
    """Return the records without those of some layers."""
    return tuple(record for record in records if record.layer not in layers)


def with_record(records: Records, record: Record) -> Records:
    """Replace the record of a layer, or add one; highest layer first."""
    others = without(records, record.layer)
    return tuple(sorted((*others, record), key=lambda each: RANK[each.layer]))


def register(records: Records, claim: Register, *, now: int, new_id: str) -> Decision | MethodError:
    """Decide whether a claim gets the name.

    Args:
        records: The records of the name.
        claim: The claim.
        now: Unix seconds.
        new_id: The id of the backend, should the name be new to the manual layer.

    Returns:
        The decision, or `NameTaken` if a live runtime record at another address holds the
        name and the claim neither forces it (`replace`) nor comes from the hub itself (`auto`).
    """
    held = holder(records)
    current = held.backend if held is not None and held.layer in MANUAL_LAYERS else None
    stated = msgspec.structs.asdict(claim)
    del stated["replace"]
    for name in _CLEARABLE:
        stated[name] = stated[name] or None
    stated["source"] = Source(claim.source)
    if claim.metadata is not None:
        stated["metadata"] = metadata_text(claim.metadata)
    claimed = Backend(
        id=new_id if current is None else current.id,
        **stated,
        is_active=True,
        registered_at=now,
        created_at=now if current is None else current.created_at,
        updated_at=now,
    )
    if held is None or current is None:
        return _written(records, claimed)
    if current.address == claimed.address:
        return _refreshed(records, current, claimed, now=now)
    is_live = current.is_active and held.layer is Layer.RUNTIME
    if is_live and not claim.replace and claimed.source is not Source.AUTO:
        return NameTaken(
            f"Name {claim.name} is taken by a live backend at {current.url}:"
            " deregister or delete it first, or register with replace=true",
            holder=current,
        )
    return _written(records, claimed)


def _refreshed(records: Records, current: Backend, claimed: Backend, *, now: int) -> Decision:
    """Refresh a record whose address is claimed again with the optional fields that are given."""
    given: dict[str, str] = {
        name: value for name in OPTIONAL if (value := getattr(claimed, name)) is not None
    }
    if claimed.source is Source.AUTO:
        given["source"] = Source.AUTO
    backend = msgspec.structs.replace(current, **given)
    if not current.is_active:
        backend = msgspec.structs.replace(backend, is_active=True, registered_at=now, health=None)
    if backend != current:
        backend = msgspec.structs.replace(backend, updated_at=now)
    # Synapse registers hubs again that never ping: they must not go stale for it.
    if current.pings:
        backend = _pinged(backend, now=now)
    return _written(records, backend, is_sign_of_life=current.pings)


def update(records: Records, change: Update, *, now: int) -> Decision | MethodError:
    """Change the given fields of the effective backend.

    On an env, file or auto record it makes a manual override, a whole copy with the changes.

    Returns:
        The decision, or `NotFound`. A new address starts with fresh health: active, never seen.
    """
    held = holder(records)
    if held is None or held.backend is None:
        return NotFound(change.name)
    current = held.backend
    given: dict[str, str | int | None] = {
        field.name: None if value == "" and field.is_clearable else value
        for field in FIELDS.values()
        if field.new is not None and (value := getattr(change, field.name)) is not None
    }
    if held.layer not in MANUAL_LAYERS:
        given["source"] = Source.MANUAL
    backend = msgspec.structs.replace(current, **given, updated_at=now)
    if backend.address != current.address:
        backend = msgspec.structs.replace(backend, last_seen=None, is_active=True, health=None)
    return _written(records, backend)


def delete(records: Records, name: str) -> Decision | MethodError:
    """Make a name not exist: its manual record goes, a tombstone hides what lies below.

    Returns:
        The decision, answered with the backend that is gone, or `NotFound`.
    """
    current = effective(records)
    if current is None:
        return NotFound(name)
    below = without(records, *MANUAL_LAYERS)
    if below:
        below = (Record(name=name, layer=Layer.RUNTIME, backend=None), *below)
    return Decision(below, current)


def lift_tombstone(records: Records) -> Records:
    """Remove a tombstone, so that the lower layers show again."""
    held = holder(records)
    return without(records, *MANUAL_LAYERS) if held is not None and held.is_tombstone else records


def as_registered(records: Records, backend: Backend) -> Records:
    """Turn an adopted record into one of an earlier run's call, unless there is one."""
    lower = without(records, Layer.ADOPTED)
    if any(record.layer in MANUAL_LAYERS for record in lower):
        return lower
    return with_record(lower, Record(name=backend.name, layer=Layer.DATABASE, backend=backend))


def deregister(records: Records, name: str, *, now: int) -> Decision | MethodError:
    """Make the effective backend inactive, in its layer.

    Returns:
        The decision, or `NotFound`.
    """
    held = holder(records)
    if held is None or held.backend is None:
        return NotFound(name)
    reason = "it said goodbye, or somebody did for it"
    return _confirmed(records, held, after_sign(held.backend, Sign.GOODBYE, now=now, reason=reason))


def ping(records: Records, name: str, *, now: int) -> Decision | MethodError:
    """Record a sign of life; it makes a backend active again, unless another hub answers there.

    A pinging record of an earlier run counts as this run's: its hub is there, so the name is
    held live, and no third party can take it.

    Returns:
        The decision, or `NotFound`.
    """
    held = holder(records)
    if held is None or held.backend is None:
        return NotFound(name)
    return _confirmed(records, held, _pinged(held.backend, now=now), is_sign_of_life=True)


def with_health(records: Records, backend: Backend) -> Records:
    """Replace the effective backend by one with new health."""
    held = holder(records)
    if held is None or held.backend is None:
        return records
    # The holder comes first: this is what every probe does.
    return (msgspec.structs.replace(held, backend=backend), *records[1:])


def _pinged(backend: Backend, *, now: int) -> Backend:
    if ping_changes(backend):
        backend = after_sign(backend, Sign.PING, now=now)
    return msgspec.structs.replace(backend, last_seen=now)


def _confirmed(
    records: Records, held: Record, backend: Backend, *, is_sign_of_life: bool = False
) -> Decision:
    """Replace the backend of the holder; a record of an earlier run becomes one of this run."""
    if held.layer is Layer.DATABASE:
        return _written(records, backend, is_sign_of_life=is_sign_of_life)
    # The holder comes first: this is what every ping does.
    first = msgspec.structs.replace(held, backend=backend)
    return Decision((first, *records[1:]), backend, is_sign_of_life)


def _written(records: Records, backend: Backend, *, is_sign_of_life: bool = False) -> Decision:
    """Write a record in this run: it replaces what an earlier run left."""
    record = Record(name=backend.name, layer=Layer.RUNTIME, backend=backend)
    lower = without(records, *MANUAL_LAYERS) if records else ()
    return Decision((record, *lower), backend, is_sign_of_life)
