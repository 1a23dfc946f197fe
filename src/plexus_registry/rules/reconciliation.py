"""Reconciles layers with what their origins declare; and the built-in entry for the local hub.

A backend that is declared as before keeps its id, its times and its health.

The built-in entry states an address, not a name: any hub that answers there is right. If the hub
has another name, the same layer states that name as well, for as long as the hub answers with it.

Source: manual/config.md, "The built-in entry".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules import operations
from plexus_registry.rules.backend import (
    FIELDS,
    SOURCE_OF,
    Backend,
    Declaration,
    Layer,
    Record,
    Source,
)
from plexus_registry.rules.events import Reloaded
from plexus_registry.rules.states import Answered, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import Transaction
    from plexus_registry.rules.operations import Records


def declare(
    transaction: Transaction,
    layer: Layer,
    declared: Mapping[str, Declaration],
    *,
    now: int,
    new_id: Callable[[], str],
) -> Reloaded:
    """Reconcile a layer with the declarations of its origin, by name.

    A change of the file's layer is reported in the transaction, too.

    Args:
        transaction: Where the layer is changed.
        layer: One of `SOURCE_OF`.
        declared: All that the origin declares.
        now: Unix seconds.
        new_id: Makes the id of a backend that is new to the layer.
    """
    added: list[str] = []
    updated: list[str] = []
    removed: list[str] = []
    names = transaction.names(layer) | declared.keys()
    if layer is Layer.FILE:
        names |= transaction.names(Layer.ADOPTED)
    for name in sorted(names):
        records = transaction.records(name)
        former = operations.stated(records, layer)
        adopted = operations.stated(records, Layer.ADOPTED) if layer is Layer.FILE else None
        known = former or adopted
        declaration = declared.get(name)
        if declaration is None:
            if former is not None:
                records = operations.without(records, layer)
                removed.append(name)
            if adopted is not None and adopted.backend is not None:
                # To the original, such a row was as good as registered.
                records = operations.as_registered(records, adopted.backend)
            transaction.write(name, records)
            continue
        known_backend = known.backend if known is not None else None
        backend = reconcile(
            declaration, known_backend, source=SOURCE_OF[layer], now=now, new_id=new_id
        )
        if backend is not known_backend or adopted is not None:
            others = operations.without(records, Layer.ADOPTED) if adopted else records
            record = Record(name=name, layer=layer, backend=backend)
            transaction.write(name, operations.with_record(others, record))
        if backend is not known_backend:
            (added if known is None else updated).append(name)
    reloaded = Reloaded(
        revision=transaction.revision,
        at=transaction.at,
        count=len(declared),
        added=tuple(added),
        updated=tuple(updated),
        removed=tuple(removed),
    )
    if layer is Layer.FILE and (added or updated or removed):
        transaction.report(reloaded)
    return reloaded


def reconcile(
    declaration: Declaration,
    former: Backend | None,
    *,
    source: Source,
    now: int,
    new_id: Callable[[], str],
) -> Backend:
    """Turn a declaration into the backend of its layer, at a time in Unix seconds.

    Returns:
        The former backend of the layer itself if the declaration says nothing new; else one that
        keeps its id, its creation time and, at the same address, its health.
    """
    if former is None:
        return Backend(
            id=new_id(),
            **msgspec.structs.asdict(declaration),
            source=source,
            is_active=True,
            registered_at=now,
            created_at=now,
            updated_at=now,
        )
    backend = msgspec.structs.replace(former, **msgspec.structs.asdict(declaration), source=source)
    if backend == former:
        return former
    if backend.address != former.address:
        backend = msgspec.structs.replace(backend, last_seen=None, is_active=True, health=None)
    return msgspec.structs.replace(backend, updated_at=now)


Names = frozenset[str]

LOCAL_HUB = Declaration(
    name="plexus", host="127.0.0.1", port=4444, description="The local Plexus hub"
)
"""The built-in entry."""


def is_built_in(name: str, records: Records) -> bool:
    """Whether the built-in entry, and no record above it, holds a name."""
    if name != LOCAL_HUB.name:
        return False
    held = operations.holder(records)
    return held is not None and held.layer is Layer.AUTO


def as_built_in(outcome: Outcome) -> Outcome:
    """Turn the answer of any hub into the one that the built-in entry expects."""
    if isinstance(outcome, Answered):
        return msgspec.structs.replace(outcome, name=LOCAL_HUB.name)
    return outcome


def other_names(stated: Names, outcome: Outcome, after: Backend) -> Names:
    """Find the other names of the local hub after a probe.

    Args:
        stated: Its other names so far.
        outcome: The outcome, with the name that the hub gave.
        after: The built-in entry after the probe.
    """
    if not after.is_active:
        return frozenset()
    if not isinstance(outcome, Answered):
        return stated
    is_statable = outcome.name != LOCAL_HUB.name and FIELDS["name"].values.accepts(outcome.name)
    return frozenset({outcome.name}) if is_statable else frozenset()


def stated_names(catalog: Catalog) -> Names:
    """Find the other names by which the local hub is stated."""
    return frozenset(
        record.name
        for name in catalog.names(Layer.AUTO)
        for record in catalog.records(name)
        if record.layer is Layer.AUTO and name != LOCAL_HUB.name
    )


def declared_at_start(catalog: Catalog) -> dict[str, Declaration]:
    """Declare the built-in entry, and the other name that an earlier run left at its address.

    The first probe finds out whether the hub still has that name.
    """
    names = {LOCAL_HUB.name}
    built_in = catalog.get(LOCAL_HUB.name)
    address = (LOCAL_HUB.host, LOCAL_HUB.port, LOCAL_HUB.protocol)
    if (
        built_in is not None
        and built_in.address == address
        and is_built_in(LOCAL_HUB.name, catalog.records(LOCAL_HUB.name))
    ):
        names |= stated_names(catalog)
    return {name: msgspec.structs.replace(LOCAL_HUB, name=name) for name in names}


def state_others(
    transaction: Transaction, names: Names, stated: Names, *, now: int, new_id: Callable[[], str]
) -> None:
    """Replace the other names of the local hub; `now` is in Unix seconds."""
    for name in stated - names:
        transaction.write(name, operations.without(transaction.records(name), Layer.AUTO))
    for name in names:
        records = transaction.records(name)
        former = operations.stated(records, Layer.AUTO)
        backend = reconcile(
            msgspec.structs.replace(LOCAL_HUB, name=name),
            None if former is None else former.backend,
            source=SOURCE_OF[Layer.AUTO],
            now=now,
            new_id=new_id,
        )
        record = Record(name=name, layer=Layer.AUTO, backend=backend)
        transaction.write(name, operations.with_record(records, record))
