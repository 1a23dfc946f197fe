"""What every call keeps true, for arbitrary records of one name and arbitrary commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules import operations
from plexus_registry.rules.backend import (
    MANUAL_LAYERS,
    RANK,
    Layer,
    Record,
    Register,
    Source,
    State,
)
from plexus_registry.rules.errors import MethodError, NotFound
from plexus_registry.rules.operations import Decision, Records, effective, holder
from plexus_registry.rules.states import Sign, after_sign
from tests import strategies as sts
from tests.fields import LOWER, fields

if TYPE_CHECKING:
    from plexus_registry.rules.backend import Update

NAME = "a"
NOW = 2000
NEW_ID = "id-new"
CLAIM = Register(name=NAME, host="h", port=1)

Call = Callable[[Records], Decision | MethodError]


def register(claim: Register) -> Call:
    return lambda records: operations.register(records, claim, now=NOW, new_id=NEW_ID)


def update(change: Update) -> Call:
    return lambda records: operations.update(records, change, now=NOW)


def delete(records: Records) -> Decision | MethodError:
    return operations.delete(records, NAME)


def deregister(records: Records) -> Decision | MethodError:
    return operations.deregister(records, NAME, now=NOW)


def ping(records: Records) -> Decision | MethodError:
    return operations.ping(records, NAME, now=NOW)


def accepted(answer: Decision | MethodError) -> Decision:
    assert isinstance(answer, Decision), answer
    return answer


def in_layers(records: Records, *layers: Layer) -> list[Record]:
    return [record for record in records if record.layer in layers]


def but_for_health(records: list[Record]) -> list[Record]:
    return [
        msgspec.structs.replace(
            record,
            backend=record.backend
            and msgspec.structs.replace(
                record.backend, is_active=True, last_seen=None, health=None
            ),
        )
        for record in records
    ]


the_records = sts.records_of(NAME)
registers = sts.register_commands(name=NAME).map(register)
updates = sts.update_commands(name=NAME).map(update)
changes = updates | st.sampled_from((delete, deregister, ping))
writes = registers | updates | st.just(delete)
calls = registers | changes


@given(the_records, calls)
def test_records_stay_sorted_and_unique_and_of_one_name(records: Records, call: Call) -> None:
    answer = call(records)
    if isinstance(answer, Decision):
        ranks = [RANK[record.layer] for record in answer.records]
        assert ranks == sorted(set(ranks))
        assert len(in_layers(answer.records, *MANUAL_LAYERS)) <= 1
        for record in answer.records:
            assert record.name == NAME
            assert record.backend is None or record.backend.name == NAME


@given(the_records, writes)
def test_a_write_leaves_the_lower_layers_alone(records: Records, write: Call) -> None:
    answer = write(records)
    if isinstance(answer, Decision):
        assert in_layers(answer.records, *LOWER) == in_layers(records, *LOWER)


@given(the_records, calls)
def test_no_call_changes_more_than_health_in_the_lower_layers(records: Records, call: Call) -> None:
    answer = call(records)
    if isinstance(answer, Decision):
        after, before = in_layers(answer.records, *LOWER), in_layers(records, *LOWER)
        assert but_for_health(after) == but_for_health(before)


@given(the_records, calls)
def test_the_answer_is_what_the_name_means_afterwards(records: Records, call: Call) -> None:
    answer = call(records)
    if isinstance(answer, Decision):
        meant = effective(records if call is delete else answer.records)
        assert answer.backend == meant


@given(the_records, calls)
def test_a_call_that_changes_anything_leaves_no_database_record(
    records: Records, call: Call
) -> None:
    answer = call(records)
    if isinstance(answer, Decision) and answer.records != records:
        assert in_layers(answer.records, Layer.DATABASE) == []


@given(the_records, changes)
def test_only_a_name_that_does_not_exist_is_not_found(records: Records, call: Call) -> None:
    assert isinstance(call(records), NotFound) == (effective(records) is None)


@given(the_records, calls)
def test_a_manual_backend_keeps_its_identity(records: Records, call: Call) -> None:
    held = holder(records)
    answer = call(records)
    if held is not None and held.layer in MANUAL_LAYERS and held.backend is not None:
        backend = answer.backend if isinstance(answer, Decision) else held.backend
        assert (backend.id, backend.created_at) == (held.backend.id, held.backend.created_at)


@given(sts.register_commands(name=NAME))
def test_register_then_delete_restores_absence(claim: Register) -> None:
    registered = accepted(register(claim)(()))
    assert accepted(delete(registered.records)).records == ()


@given(the_records)
def test_a_deleted_name_does_not_exist_until_its_tombstone_is_lifted(records: Records) -> None:
    answer = delete(records)
    if isinstance(answer, Decision):
        lower = tuple(in_layers(records, *LOWER))
        assert effective(answer.records) is None
        assert [r.is_tombstone for r in in_layers(answer.records, Layer.RUNTIME)] == [True] * bool(
            lower
        )
        assert operations.lift_tombstone(answer.records) == lower


@given(the_records)
def test_lifting_changes_nothing_where_no_tombstone_holds(records: Records) -> None:
    held = holder(records)
    if held is None or not held.is_tombstone:
        assert operations.lift_tombstone(records) == records


@given(the_records, sts.update_commands(name=NAME))
def test_an_update_changes_what_is_given_and_only_that(records: Records, change: Update) -> None:
    before = effective(records)
    if before is None:
        return
    held = holder(records)
    assert held is not None
    expected = msgspec.structs.asdict(before)
    for field in fields("update"):
        given_value = getattr(change, field)
        if given_value is not None:
            expected[field] = None if given_value == "" else given_value
    if held.layer in LOWER:
        expected["source"] = Source.MANUAL
    expected["updated_at"] = NOW
    after = accepted(update(change)(records)).backend
    if after.address != before.address:
        expected |= {"last_seen": None, "is_active": True, "health": None}
    assert msgspec.structs.asdict(after) == expected


@given(the_records, st.sampled_from(((ping, State.UP), (deregister, State.DEREGISTERED))))
def test_ping_and_deregister_touch_health_alone(records: Records, case: tuple[Call, State]) -> None:
    before = effective(records)
    if before is not None:
        call, state = case
        last_seen = NOW if call is ping else before.last_seen
        after = accepted(call(records)).backend
        assert after.state is state
        assert after.is_active == (state is State.UP)
        assert call is ping or after.health is not None
        assert after == msgspec.structs.replace(
            before, is_active=after.is_active, last_seen=last_seen, health=after.health
        )


def test_a_ping_of_who_is_up_changes_nothing_but_its_time() -> None:
    known = accepted(ping(accepted(register(CLAIM)(())).records))
    again = accepted(operations.ping(known.records, NAME, now=NOW + 5)).backend
    assert again == msgspec.structs.replace(known.backend, last_seen=NOW + 5)


def test_a_ping_does_not_revive_who_leads_to_another_hub() -> None:
    registered = accepted(register(CLAIM)(()))
    wrong = after_sign(registered.backend, Sign.OTHER_NAME, now=NOW, reason="it answers as b")
    pinged = accepted(ping(operations.with_health(registered.records, wrong))).backend
    assert pinged == msgspec.structs.replace(wrong, last_seen=NOW)


def test_registering_again_revives_and_forgets_why_it_was_away() -> None:
    registered = accepted(register(CLAIM)(()))
    gone = accepted(deregister(registered.records))
    again = accepted(register(CLAIM)(gone.records)).backend
    assert (again.is_active, again.health) == (True, None)


@given(the_records, st.sampled_from(Sign))
def test_health_is_put_where_the_backend_stands(records: Records, sign: Sign) -> None:
    before = effective(records)
    if before is None:
        claimed = accepted(register(CLAIM)(())).backend
        assert operations.with_health(records, claimed) == records
        return
    judged_now = after_sign(before, sign, now=NOW)
    after = operations.with_health(records, judged_now)
    assert [record.layer for record in after] == [record.layer for record in records]
    assert effective(after) == judged_now
    assert after[1:] == records[1:]


@pytest.mark.parametrize("layer", Layer)
@given(data=st.data())
def test_a_layer_is_replaced_found_and_taken_away_alone(layer: Layer, data: st.DataObject) -> None:
    records = data.draw(the_records)
    record = data.draw(sts.records(name=NAME, layer=layer))
    put = operations.with_record(records, record)
    assert operations.stated(put, layer) == record
    assert operations.without(put, layer) == operations.without(records, layer)
    assert operations.stated(operations.without(put, layer), layer) is None
