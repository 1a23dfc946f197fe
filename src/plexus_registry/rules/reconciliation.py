"""Reconciles a layer with the declarations of its origin.

A backend that is declared as before keeps its id, its times and its health.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules import operations
from plexus_registry.rules.backend import SOURCE_OF, Backend, Declaration, Layer, Record, Source
from plexus_registry.rules.events import Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plexus_registry.rules.change_log import Transaction


def declare(
    transaction: Transaction,
    layer: Layer,
    declared: Mapping[str, Declaration],
    *,
    now: int,
    new_id: Callable[[], str],
) -> Reloaded:
    """Reconcile a layer with the declarations of its origin.

    Args:
        transaction: Where the layer is changed, and a change of the file's layer reported.
        layer: One of `SOURCE_OF`.
        declared: The declarations, by name.
        now: Unix seconds.
        new_id: Makes the id of a backend that is new to the layer.

    Returns:
        How many backends are declared, and the names that changed in the layer.
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
    """Turn a declaration into the backend of its layer.

    Args:
        declaration: What the origin declares now.
        former: The backend of the name in the layer so far.
        source: The source of the backend.
        now: Unix seconds.
        new_id: Makes the id if the name is new to the layer.

    Returns:
        The former backend itself if the declaration says nothing new; else one that keeps
        its id, its creation time and, at the same address, its health.
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
