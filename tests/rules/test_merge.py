"""The laws of the merge, for arbitrary layers. Source: manual/config.md, "Which source wins"."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules.backend import Backend, Layer, Record, Source
from plexus_registry.rules.operations import effective, holder, merge
from tests import strategies as sts
from tests.fields import HIGHEST_FIRST

if TYPE_CHECKING:
    from collections.abc import Iterable

MANUAL = (Layer.RUNTIME, Layer.DATABASE)


def naive_merge(records: Iterable[Record]) -> dict[str, Backend]:
    """Go through the layers from the lowest up, and let each overwrite what is there."""
    merged: dict[str, Backend] = {}
    stated = list(records)
    for layer in reversed(HIGHEST_FIRST):
        for record in stated:
            if record.layer is layer:
                merged.pop(record.name, None)
                if record.backend is not None:
                    merged[record.name] = record.backend
    return merged


def of_name(records: Iterable[Record], name: str) -> list[Record]:
    return [record for record in records if record.name == name]


@given(sts.layers())
def test_agrees_with_the_naive_model(records: tuple[Record, ...]) -> None:
    assert merge(records) == naive_merge(records)


@given(sts.layers())
def test_the_highest_layer_wins_whole(records: tuple[Record, ...]) -> None:
    for name, backend in merge(records).items():
        stated = {record.layer: record.backend for record in of_name(records, name)}
        highest = next(layer for layer in HIGHEST_FIRST if layer in stated)
        assert backend is stated[highest]


@given(sts.layers(), st.data())
def test_does_not_depend_on_the_order(records: tuple[Record, ...], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(records))
    assert merge(shuffled) == merge(records)


@given(sts.layers(), sts.names(), st.data())
def test_a_tombstone_hides_the_name_in_every_lower_layer(
    records: tuple[Record, ...], name: str, data: st.DataObject
) -> None:
    tombstone = data.draw(sts.tombstones(name=name))
    hidden = HIGHEST_FIRST[HIGHEST_FIRST.index(tombstone.layer) + 1 :]
    others = [each for each in records if each.name != name]
    lower = [each for each in of_name(records, name) if each.layer in hidden]
    assert merge([*others, *lower, tombstone]) == merge(others)


@given(sts.layers())
def test_removing_the_holder_reveals_the_next_lower_record(records: tuple[Record, ...]) -> None:
    for name in {record.name for record in records}:
        highest_first = sorted(
            of_name(records, name), key=lambda each: HIGHEST_FIRST.index(each.layer)
        )
        for index, expected in enumerate(highest_first):
            assert holder(highest_first[index:]) is expected
            assert effective(highest_first[index:]) is expected.backend


@given(sts.layers(), st.sampled_from(Layer))
def test_is_idempotent(records: tuple[Record, ...], layer: Layer) -> None:
    merged = merge(records)
    again = [Record(name=name, layer=layer, backend=each) for name, each in merged.items()]
    assert merge(again) == merged


@given(sts.layers())
def test_merging_the_winners_alone_gives_the_same(records: tuple[Record, ...]) -> None:
    winners = [holder(of_name(records, name)) for name in {each.name for each in records}]
    assert merge(winner for winner in winners if winner is not None) == merge(records)


@given(sts.layers(), sts.records())
def test_a_statement_touches_no_other_name(records: tuple[Record, ...], more: Record) -> None:
    others = [each for each in records if (each.name, each.layer) != (more.name, more.layer)]
    before, after = merge(others), merge([*others, more])
    before.pop(more.name, None)
    after.pop(more.name, None)
    assert after == before


@given(sts.layers(), sts.records(live_only=True))
def test_a_lower_layer_never_displaces_a_higher_one(
    records: tuple[Record, ...], more: Record
) -> None:
    rank = HIGHEST_FIRST.index(more.layer)
    higher = [each for each in records if HIGHEST_FIRST.index(each.layer) < rank]
    stated_higher = {each.name for each in higher}
    if more.name in stated_higher:
        assert merge([*higher, more]) == merge(higher)
    else:
        assert merge([*higher, more]) == {**merge(higher), more.name: more.backend}


@given(sts.layers())
def test_a_name_that_no_layer_states_does_not_exist(records: tuple[Record, ...]) -> None:
    assert merge(records).keys() <= {record.name for record in records}
    assert all(name == backend.name for name, backend in merge(records).items())


def test_nothing_merges_to_nothing() -> None:
    assert merge(()) == {}
    assert holder(()) is None
    assert effective(()) is None


def stated_by(layer: Layer, *, deleted: bool = False) -> Record:
    backend = Backend(
        id=f"id-of-{layer}",
        name="a",
        host=layer,
        port=1,
        protocol="ws",
        source=Source.MANUAL,
        is_active=True,
        registered_at=0,
        created_at=0,
        updated_at=0,
    )
    return Record(name="a", layer=layer, backend=None if deleted else backend)


@pytest.mark.parametrize(("higher", "lower"), [*combinations(HIGHEST_FIRST, 2)])
def test_each_layer_outranks_the_lower_ones(higher: Layer, lower: Layer) -> None:
    records = [stated_by(lower), stated_by(higher)]
    assert [each.host for each in merge(records).values()] == [higher]


@pytest.mark.parametrize("manual", MANUAL)
@pytest.mark.parametrize("lower", HIGHEST_FIRST[2:])
def test_a_deleted_name_is_gone_whatever_lies_below(manual: Layer, lower: Layer) -> None:
    records = [stated_by(lower), stated_by(manual, deleted=True)]
    assert merge(records) == {}
    held = holder(records)
    assert held is not None
    assert held.is_tombstone


def test_a_runtime_record_shows_above_a_tombstone_of_an_earlier_run() -> None:
    records = [stated_by(Layer.DATABASE, deleted=True), stated_by(Layer.RUNTIME)]
    assert merge(records).keys() == {"a"}
