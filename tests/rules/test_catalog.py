"""The registry in memory, against a dictionary and a sort; and its form on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plexus_registry.rules import catalog as catalog_module
from plexus_registry.rules import events
from plexus_registry.rules.backend import Backend, Declaration, Layer, Record
from plexus_registry.rules.catalog import Catalog
from plexus_registry.rules.change_log import Transaction
from plexus_registry.rules.events import called
from plexus_registry.rules.reconciliation import declare
from tests import strategies as sts
from tests.fields import HIGHEST_FIRST, LOWER
from tests.rpc.message_shapes import BARE, BARE_TEXT, FULL, FULL_TEXT, decoded, fresh

if TYPE_CHECKING:
    from plexus_registry.rules.operations import Records


BY = called("register")


class Model:
    """What is stated about each name, and nothing that would have to be kept in step."""

    def __init__(self) -> None:
        self.stated: dict[str, Records] = {}

    def get(self, name: str) -> Backend | None:
        records = self.stated.get(name, ())
        return records[0].backend if records else None

    def list(self, *, active_only: bool) -> list[Backend]:
        backends = [each for name in self.stated if (each := self.get(name)) is not None]
        backends.sort(key=lambda each: each.name)
        backends.sort(key=lambda each: each.created_at, reverse=True)
        return [each for each in backends if each.is_active or not active_only]


def assert_agrees(catalog: Catalog, model: Model) -> None:
    for active_only in (False, True):
        expected = model.list(active_only=active_only)
        assert [*catalog.list(active_only=active_only)] == expected
        listed = decoded(catalog.listed(active_only=active_only))
        assert listed == {
            "type": "backends",
            "revision": catalog.revision,
            "backends": [fresh(each) for each in expected],
        }
        assert [*listed] == ["type", "revision", "backends"]
    assert len(catalog) == len(model.list(active_only=False))
    for layer in LOWER:
        assert catalog.names(layer) == {
            name
            for name, records in model.stated.items()
            if any(record.layer is layer for record in records)
        }
    for name in (*sts.NAMES, "never stated"):
        backend = model.get(name)
        assert catalog.get(name) == backend
        assert catalog.records(name) == model.stated.get(name, ())
        found = decoded(catalog.found(name))
        assert found == {"type": "backend", "backend": backend and fresh(backend)}


class CatalogMachine(RuleBasedStateMachine):
    """Any sequence of publishes and drafts; what is cached is asked for between all of them."""

    @initialize(records=sts.layers())
    def start(self, records: tuple[Record, ...]) -> None:
        self.catalog = Catalog(records)
        self.model = Model()
        for name in {record.name for record in records}:
            stated = [record for record in records if record.name == name]
            self.model.stated[name] = tuple(
                sorted(stated, key=lambda each: HIGHEST_FIRST.index(each.layer))
            )

    def publish(self, changes: dict[str, Records]) -> None:
        self.catalog.publish(changes)
        for name, records in changes.items():
            if records:
                self.model.stated[name] = records
            else:
                self.model.stated.pop(name, None)

    @rule(data=st.data())
    def publish_several(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(sts.names(), unique=True))
        self.publish({name: data.draw(sts.records_of(name)) for name in names})

    @rule(name=sts.names())
    def publish_absence(self, name: str) -> None:
        self.publish({name: ()})

    @rule(name=sts.names(), is_active=st.booleans())
    def publish_health(self, name: str, is_active: bool) -> None:
        if (backend := self.model.get(name)) is not None:
            held, *lower = self.model.stated[name]
            changed = msgspec.structs.replace(backend, is_active=is_active, last_seen=1001)
            self.publish({name: (msgspec.structs.replace(held, backend=changed), *lower)})

    @rule(name=sts.names(), data=st.data())
    def publish_a_draft(self, name: str, data: st.DataObject) -> None:
        transaction = Transaction(self.catalog, at=7)
        records = data.draw(sts.records_of(name))
        transaction.write(name, records)
        transaction.end_change(BY)
        self.publish(transaction.changes)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if hasattr(self, "catalog"):
            assert_agrees(self.catalog, self.model)


TestCatalogMachine = pytest.mark.slow(CatalogMachine.TestCase)


@given(sts.layers(), st.lists(st.tuples(sts.names(), st.booleans(), st.data()), max_size=4))
def test_a_draft_shows_its_changes_and_the_catalog_none_of_them(
    records: tuple[Record, ...], steps: list[tuple[str, bool, st.DataObject]]
) -> None:
    catalog, untouched = Catalog(records), Catalog(records)
    transaction = Transaction(catalog, at=7)
    written: dict[str, Records] = {}
    for name, back, data in steps:
        # Writing back what is there is no change.
        written[name] = catalog.records(name) if back else data.draw(sts.records_of(name))
        transaction.write(name, written[name])
        if back:
            transaction.end_change(BY)
    for name in sts.NAMES:
        assert transaction.records(name) == written.get(name, untouched.records(name))
        assert catalog.records(name) == untouched.records(name)
    assert transaction.names(Layer.FILE) == untouched.names(Layer.FILE) | written.keys()
    transaction.end_change(BY)
    assert transaction.changes == {
        name: stated for name, stated in written.items() if stated != untouched.records(name)
    }
    assert catalog.listed(active_only=False) == untouched.listed(active_only=False)


@given(sts.layers(), sts.names(), st.data())
def test_what_is_saved_again_is_saved_as_it_is_then(
    records: tuple[Record, ...], name: str, data: st.DataObject
) -> None:
    transaction = Transaction(Catalog(records), at=7)
    transaction.save_again(name)
    assert transaction.changes == {}
    assert transaction.saved_again() == {name: Catalog(records).records(name)}
    changed = data.draw(sts.records_of(name))
    transaction.write(name, changed)
    transaction.end_change(BY)
    is_changed = changed != Catalog(records).records(name)
    assert transaction.changes == ({name: changed} if is_changed else {})
    assert transaction.saved_again() == ({} if is_changed else {name: changed})


@pytest.mark.parametrize(
    ("backend", "text"), [(FULL, FULL_TEXT), (BARE, BARE_TEXT)], ids=["full", "bare"]
)
def test_found_and_listed_have_the_shape_of_the_protocol(backend: Backend, text: str) -> None:
    catalog = Catalog([Record(name="a", layer=Layer.AUTO, backend=backend)], revision=7)
    assert catalog.found("a") == f'{{"type":"backend","backend":{text}}}'
    listed = f'{{"type":"backends","revision":7,"backends":[{text}]}}'
    assert catalog.listed(active_only=False) == listed
    assert catalog.listed(active_only=True) == '{"type":"backends","revision":7,"backends":[]}'
    assert catalog.found("a") == events.encode_value(events.Found(backend=backend))
    assert catalog.listed(active_only=False) == events.encode_value(
        events.Listed(revision=7, backends=(backend,))
    )
    assert catalog.found("b") == '{"type":"backend","backend":null}'
    assert catalog.found("b") == events.encode_value(events.Found(backend=None))


def test_what_is_cached_is_not_encoded_again() -> None:
    catalog = Catalog([Record(name="a", layer=Layer.AUTO, backend=FULL)])
    assert catalog.listed(active_only=False) is catalog.listed(active_only=False)
    catalog.publish({})
    assert catalog.listed(active_only=False) is catalog.listed(active_only=False)


@pytest.mark.parametrize("active_only", [True, False])
def test_a_list_shows_the_revision_of_a_change_that_is_about_no_backend(active_only: bool) -> None:
    catalog = Catalog([Record(name="a", layer=Layer.AUTO, backend=FULL)], revision=7)
    assert '"revision":7' in catalog.listed(active_only=active_only)
    catalog.publish({}, revision=8)
    assert '"revision":8' in catalog.listed(active_only=active_only)


def test_a_snapshot_shows_what_was_published_after_the_last_one() -> None:
    catalog = Catalog(revision=7)
    assert catalog.snapshot() == '{"type":"snapshot","revision":7,"backends":[]}'
    catalog.publish({"a": (Record(name="a", layer=Layer.AUTO, backend=FULL),)}, revision=8)
    text = events.encode_value(FULL)
    assert catalog.snapshot() == f'{{"type":"snapshot","revision":8,"backends":[{text}]}}'
    catalog.publish({}, revision=9)
    assert catalog.snapshot() == f'{{"type":"snapshot","revision":9,"backends":[{text}]}}'


def test_a_declaration_touches_only_what_its_layer_states_or_stated() -> None:
    registered = [
        Record(name=f"r{number}", layer=Layer.RUNTIME, backend=None) for number in range(100)
    ]
    declared = Declaration(name="declared", host="h", port=1)
    transaction = Transaction(
        Catalog([*registered, Record(name="gone", layer=Layer.FILE, backend=None)]), at=7
    )
    touched: list[str] = []
    records_of = transaction.records

    def records(name: str) -> Records:
        touched.append(name)
        return records_of(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "records", records)
        declare(transaction, Layer.FILE, {"declared": declared}, now=1, new_id=lambda: "id")
    assert touched == ["declared", "gone"]


@given(st.lists(sts.backends(), max_size=8), st.lists(sts.backends(), max_size=8), st.data())
def test_many_changes_at_once_lead_to_the_same_order(
    before: list[Backend], after: list[Backend], data: st.DataObject
) -> None:
    catalog, model = Catalog(), Model()
    for backend in before:
        model.stated[backend.name] = (runtime(backend),)
    catalog.publish(model.stated)
    gone = data.draw(st.sets(st.sampled_from([*model.stated])) if model.stated else st.just(set()))
    changes: dict[str, Records] = {each.name: (runtime(each),) for each in after}
    changes |= dict.fromkeys(gone, ())
    model.stated |= changes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog_module, "SORTED_CHANGES", 0)
        catalog.publish(changes)
    assert_agrees(catalog, model)


def runtime(backend: Backend) -> Record:
    return Record(name=backend.name, layer=Layer.RUNTIME, backend=backend)
