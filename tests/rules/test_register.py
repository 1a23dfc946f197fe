"""Every rule of `register`, for arbitrary claims and as an example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given

from plexus_registry.rules.backend import MANUAL_LAYERS, Layer, Record
from plexus_registry.rules.errors import MethodError, NameTaken
from plexus_registry.rules.operations import Decision, Records, holder
from tests import strategies as sts
from tests.fields import CLEARED, NAMES
from tests.rules.operation_cases import (
    AUTO,
    BARE,
    BASE,
    DATABASE,
    ELSEWHERE,
    ENV,
    FILE,
    FRESH,
    GONE,
    HEARD,
    KEPT,
    NOW,
    RUNTIME,
    Case,
    carry_out,
    check,
    deleted,
    register,
    stated,
)

if TYPE_CHECKING:
    from plexus_registry.rules.backend import Register


def accepted(answer: Decision | MethodError) -> Decision:
    assert isinstance(answer, Decision), answer
    return answer


@given(sts.records_of("a"), sts.register_commands(name="a"))
def test_a_claim_is_refused_only_by_a_live_runtime_record_elsewhere(
    records: Records, claim: Register
) -> None:
    held = holder(records)
    there = (claim.host.lower(), claim.port, claim.protocol)
    is_refused = (
        held is not None
        and held.layer is Layer.RUNTIME
        and held.backend is not None
        and held.backend.is_active
        and (held.backend.host.lower(), held.backend.port, held.backend.protocol) != there
        and not claim.replace
        and claim.source != "auto"
    )
    answer = carry_out(records, claim)
    if is_refused:
        assert isinstance(answer, NameTaken)
        assert held is not None
        assert answer.data["holder"] == held.backend
        return
    decision = accepted(answer)
    assert decision.backend.address == there
    assert decision.backend.is_active
    [written] = (r for r in decision.records if r.layer in MANUAL_LAYERS)
    assert written == Record(name="a", layer=Layer.RUNTIME, backend=decision.backend)


@given(sts.records_of("a"), sts.register_commands(name="a"))
def test_a_claim_to_a_name_without_manual_backend_makes_a_new_one(
    records: Records, claim: Register
) -> None:
    lower = tuple(r for r in records if r.layer not in MANUAL_LAYERS or r.is_tombstone)
    backend = accepted(carry_out(lower, claim)).backend
    values = {name: getattr(claim, name) for name in NAMES}
    metadata = {None: None, 0: "{}", 1: '{"pid":1}'}[
        None if claim.metadata is None else len(claim.metadata)
    ]
    assert msgspec.structs.asdict(backend) == {
        **values,
        **{name: values[name] or None for name in CLEARED},
        "metadata": metadata,
        "id": "id-new",
        "is_active": True,
        "registered_at": NOW,
        "last_seen": None,
        "created_at": NOW,
        "updated_at": NOW,
        "health": None,
    }


CASES = [
    # register
    Case("free: taken", (), register(**ELSEWHERE), (RUNTIME,), {**FRESH, **ELSEWHERE, **BARE}),
    Case("tombstoned in this run: taken", (deleted(RUNTIME),), register(), (RUNTIME,), FRESH),
    Case("tombstoned in an earlier run", (deleted(DATABASE),), register(), (RUNTIME,), FRESH),
    Case(
        "tombstoned above a file: taken, and the file's record stays",
        (deleted(RUNTIME), stated(FILE)),
        register(**ELSEWHERE),
        (RUNTIME, FILE),
        {**FRESH, **ELSEWHERE},
    ),
    Case(
        "inactive: taken from another address, with fresh health",
        (stated(RUNTIME, **HEARD, **GONE),),
        register(**ELSEWHERE),
        (RUNTIME,),
        {**KEPT, **ELSEWHERE, **BARE, "is_active": True, "last_seen": None, "registered_at": NOW},
    ),
    *(
        Case(
            f"held only by {layer}: taken",
            (stated(layer),),
            register(**ELSEWHERE),
            (RUNTIME, layer),
            {**FRESH, **ELSEWHERE, "source": "manual"},
        )
        for layer in (ENV, FILE, AUTO)
    ),
    Case(
        "held only by the database: taken, and replaces its record",
        (stated(DATABASE),),
        register(**ELSEWHERE),
        (RUNTIME,),
        {**KEPT, **ELSEWHERE, "registered_at": NOW, "updated_at": NOW},
    ),
    Case(
        "same address: a refresh that says nothing new changes nothing",
        (stated(RUNTIME),),
        register(),
        (RUNTIME,),
        msgspec.structs.asdict(BASE),
    ),
    Case(
        "same address, written otherwise",
        (stated(RUNTIME),),
        register(host="OLD"),
        (RUNTIME,),
        msgspec.structs.asdict(BASE),
    ),
    Case(
        "same address: the optional fields that are given are updated",
        (stated(RUNTIME),),
        register(description="new", version="2", metadata={"pid": 2}),
        (RUNTIME,),
        {**KEPT, "description": "new", "namespace": "ns", "version": "2"}
        | {"metadata": '{"pid":2}', "updated_at": NOW, "registered_at": 1000},
    ),
    Case(
        "same address: metadata given as the text that is returned for it",
        (stated(RUNTIME),),
        register(metadata='{ "pid": 2 }'),
        (RUNTIME,),
        {**KEPT, "metadata": '{"pid":2}', "updated_at": NOW, "registered_at": 1000},
    ),
    Case(
        "same address: no ping where the backend does not ping",
        (stated(RUNTIME),),
        register(),
        (RUNTIME,),
        {"last_seen": None},
    ),
    Case(
        "same address: a ping where the backend already pings",
        (stated(RUNTIME, **HEARD),),
        register(),
        (RUNTIME,),
        {"last_seen": NOW, "updated_at": 1000},
        is_sign_of_life=True,
    ),
    Case(
        "same address, inactive: revived",
        (stated(RUNTIME, **HEARD, **GONE),),
        register(),
        (RUNTIME,),
        {**KEPT, "is_active": True, "last_seen": NOW, "registered_at": NOW, "updated_at": NOW},
        is_sign_of_life=True,
    ),
    Case(
        "same address, of an earlier run: held live from now on",
        (stated(DATABASE), stated(FILE)),
        register(),
        (RUNTIME, FILE),
        msgspec.structs.asdict(BASE),
    ),
    Case(
        "replace forces it",
        (stated(RUNTIME, **HEARD),),
        register(**ELSEWHERE, replace=True),
        (RUNTIME,),
        {**KEPT, **ELSEWHERE, **BARE, "last_seen": None, "source": "manual"},
    ),
    Case(
        "a hub that registers itself wins its own name",
        (stated(RUNTIME, **HEARD),),
        register(**ELSEWHERE, source="auto"),
        (RUNTIME,),
        {**KEPT, **ELSEWHERE, "last_seen": None, "source": "auto"},
    ),
    Case(
        "a hub that registers itself at a known address says so of itself",
        (stated(RUNTIME),),
        register(source="auto"),
        (RUNTIME,),
        {**KEPT, "source": "auto", "description": "kept", "updated_at": NOW},
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.sentence) for case in CASES])
def test_example(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("where", [{"host": "new"}, {"port": 2}, {"protocol": "wss"}], ids=str)
def test_a_live_name_is_never_taken_over_silently(where: dict[str, object]) -> None:
    held = stated(RUNTIME, **HEARD)
    answer = carry_out((held, stated(FILE)), register(**where))
    assert isinstance(answer, NameTaken)
    assert (answer.code, answer.data) == (-32002, {"code": "name_taken", "holder": held.backend})
    assert "ws://old:1" in answer.message
