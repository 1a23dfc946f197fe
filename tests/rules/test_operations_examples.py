"""Every rule of the calls that change a name, but `register`, as an example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from plexus_registry.rules import operations
from plexus_registry.rules.backend import RANK, Layer, Record, Source
from plexus_registry.rules.errors import NotFound
from tests.fields import HIGHEST_FIRST
from tests.rules.operation_cases import (
    ADOPTED,
    AUTO,
    BASE,
    DATABASE,
    ELSEWHERE,
    ENV,
    FILE,
    GONE,
    HEARD,
    KEPT,
    NOW,
    RUNTIME,
    Case,
    carry_out,
    check,
    deleted,
    stated,
    update,
)

if TYPE_CHECKING:
    from plexus_registry.rules.backend import Update

CASES = [
    # update
    Case(
        "changes only what is given",
        (stated(RUNTIME, **HEARD),),
        update(description="new"),
        (RUNTIME,),
        {**KEPT, **HEARD, "host": "old", "description": "new", "namespace": "ns"}
        | {"version": "1", "registered_at": 1000, "updated_at": NOW},
    ),
    Case(
        "an empty string clears description or namespace",
        (stated(RUNTIME),),
        update(description="", namespace=""),
        (RUNTIME,),
        {"description": None, "namespace": None},
    ),
    *(
        Case(
            f"on a record of {layer} it makes a manual override, a whole copy",
            (stated(layer, source=source, **HEARD),),
            update(namespace="other"),
            (RUNTIME, layer),
            {**KEPT, **HEARD, "source": "manual", "namespace": "other", "description": "kept"},
        )
        for layer, source in ((ENV, Source.ENV), (FILE, Source.FILE), (AUTO, Source.AUTO))
    ),
    Case(
        "a self-registered hub stays one",
        (stated(RUNTIME, source=Source.AUTO),),
        update(description="new"),
        (RUNTIME,),
        {"source": "auto"},
    ),
    *(
        Case(
            f"a new {what} resets health",
            (stated(RUNTIME, **HEARD, **GONE),),
            update(**{what: value}),
            (RUNTIME,),
            {**KEPT, what: value, "last_seen": None, "is_active": True},
        )
        for what, value in ELSEWHERE.items()
    ),
    Case(
        "the same address keeps health",
        (stated(RUNTIME, **HEARD, **GONE),),
        update(host="OLD", port=1, protocol="ws"),
        (RUNTIME,),
        {**HEARD, **GONE},
    ),
    Case("replaces the database record", (stated(DATABASE),), update(port=2), (RUNTIME,), KEPT),
    # delete
    Case("the manual record goes", (stated(RUNTIME),), "delete", ()),
    Case("that of an earlier run too", (stated(DATABASE),), "delete", ()),
    Case("a tombstone over a lower layer", (stated(FILE),), "delete", (RUNTIME, FILE)),
    Case(
        "a tombstone in the place of the manual record",
        (stated(DATABASE), stated(ENV), stated(AUTO)),
        "delete",
        (RUNTIME, ENV, AUTO),
    ),
    # deregister
    Case("the record stays", (stated(RUNTIME, **HEARD),), "deregister", (RUNTIME,), HEARD | GONE),
    Case("where it stands", (stated(FILE),), "deregister", (FILE,), {**KEPT, **GONE}),
    Case("of an earlier run", (stated(DATABASE),), "deregister", (RUNTIME,), {**KEPT, **GONE}),
    # ping
    Case("sets last_seen", (stated(FILE),), "ping", (FILE,), {"last_seen": NOW}, True),
    Case(
        "revives",
        (stated(RUNTIME, **GONE),),
        "ping",
        (RUNTIME,),
        {"is_active": True, "last_seen": NOW, "updated_at": 1000},
        is_sign_of_life=True,
    ),
    Case("of an earlier run", (stated(DATABASE),), "ping", (RUNTIME,), {"last_seen": NOW}, True),
]


def case_id(case: Case) -> str:
    return f"{case.call if isinstance(case.call, str) else 'update'}: {case.sentence}"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_example(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("layers", [(), (RUNTIME,), (DATABASE,)], ids=str)
@pytest.mark.parametrize("call", ["delete", "deregister", "ping", update(host="h")], ids=str)
def test_what_does_not_exist_is_not_found(layers: tuple[Layer, ...], call: str | Update) -> None:
    below = (stated(FILE),) if layers else ()
    answer = carry_out((*map(deleted, layers), *below), call)
    assert isinstance(answer, NotFound)
    assert (answer.code, answer.message) == (-32001, "Backend not found: a")
    assert answer.data == {"code": "not_found", "name": "a"}


def test_a_reload_lifts_a_tombstone_and_the_file_shows_again() -> None:
    lifted = operations.lift_tombstone((deleted(DATABASE), stated(FILE), stated(AUTO)))
    assert lifted == (stated(FILE), stated(AUTO))


def test_an_adopted_record_counts_as_registered() -> None:
    adopted = stated(ADOPTED, source=Source.FILE)
    assert adopted.backend is not None
    as_database = Record(name="a", layer=DATABASE, backend=adopted.backend)
    assert operations.as_registered((adopted,), adopted.backend) == (as_database,)
    lower = (stated(ENV), stated(FILE), adopted, stated(AUTO))
    assert operations.as_registered(lower, adopted.backend) == (
        *(as_database, stated(ENV), stated(FILE), stated(AUTO)),
    )


@pytest.mark.parametrize("manual", [stated(RUNTIME), deleted(DATABASE)], ids=["held", "deleted"])
def test_an_adopted_record_never_displaces_what_a_call_wrote(manual: Record) -> None:
    assert operations.as_registered((manual, stated(ADOPTED)), BASE) == (manual,)


def test_layers_rank_as_the_design_says() -> None:
    assert tuple(RANK) == HIGHEST_FIRST
