"""The built-in entry for the local hub, and the other name that the hub at its address may have.

The entry states an address, not a name: any hub that answers there is right. If the hub has another
name, the same layer states that name as well, for as long as the hub answers with it.

Source: manual/health.md, "States".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules import operations
from plexus_registry.rules.backend import FIELDS, SOURCE_OF, Declaration, Layer, Record
from plexus_registry.rules.merge import holder
from plexus_registry.rules.reconciliation import reconcile
from plexus_registry.rules.states import Answered, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from plexus_registry.rules.backend import Backend
    from plexus_registry.rules.catalog import Catalog
    from plexus_registry.rules.change_log import Transaction
    from plexus_registry.rules.operations import Records

Names = frozenset[str]

LOCAL_HUB = Declaration(
    name="plexus", host="127.0.0.1", port=4444, description="The local Plexus hub"
)
"""The built-in entry. Source: manual/config.md, "The built-in entry"."""


def is_built_in(name: str, records: Records) -> bool:
    """Whether the built-in entry, and no record above it, holds a name."""
    if name != LOCAL_HUB.name:
        return False
    held = holder(records)
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
        outcome: The outcome of the probe of the built-in entry, with the name that the hub gave.
        after: The built-in entry after it.
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
    records = catalog.records(LOCAL_HUB.name)
    built_in = operations.stated(records, Layer.AUTO)
    if (
        is_built_in(LOCAL_HUB.name, records)
        and built_in is not None
        and built_in.backend is not None
        and built_in.backend.address == (LOCAL_HUB.host, LOCAL_HUB.port, LOCAL_HUB.protocol)
    ):
        names |= stated_names(catalog)
    return {name: msgspec.structs.replace(LOCAL_HUB, name=name) for name in names}


def state_others(
    transaction: Transaction, names: Names, stated: Names, *, now: int, new_id: Callable[[], str]
) -> None:
    """Replace the other names of the local hub.

    Args:
        transaction: Where the layer is changed.
        names: The new ones.
        stated: Those that it may have so far.
        now: Unix seconds.
        new_id: Makes the id of a backend that is new to the layer.
    """
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
