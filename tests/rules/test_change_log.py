"""What counts as a change, and what a watch is told of the changes that are kept."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules import events
from plexus_registry.rules.backend import Backend, Layer, Record
from plexus_registry.rules.catalog import Catalog
from plexus_registry.rules.change_log import (
    ChangeLog,
    Entry,
    Transaction,
    WatchCursor,
)
from plexus_registry.rules.errors import WatchEnded
from plexus_registry.rules.methods import Watch as Command
from tests.rpc.message_shapes import FULL

BY = events.called("register", peer="127.0.0.1:5")
AWAKE = msgspec.structs.replace(FULL, is_active=True)
ASLEEP = msgspec.structs.replace(FULL, is_active=False)


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        (None, None, None),
        (FULL, FULL, None),
        (FULL, msgspec.structs.replace(FULL, last_seen=99), None),
        (None, FULL, events.BackendRegistered),
        (None, ASLEEP, events.BackendRegistered),
        (FULL, None, events.BackendDeleted),
        (AWAKE, ASLEEP, events.BackendStale),
        (ASLEEP, AWAKE, events.BackendActive),
        (FULL, msgspec.structs.replace(FULL, port=9), events.BackendUpdated),
    ],
)
def test_the_event_of_a_change(
    before: Backend | None, after: Backend | None, event: type[events.Change] | None
) -> None:
    assert events.kind_of_change(before, after) is event


def entries(first: int, last: int) -> list[Entry]:
    return [
        Entry(number, "abc"[number % 3], ("n",) if number % 2 else (None, "m"), f"event {number}")
        for number in range(first, last + 1)
    ]


@given(
    first=st.integers(1, 20),
    count=st.integers(0, 20),
    kept=st.integers(1, 10),
    since=st.integers(0, 45),
)
def test_a_feed_gives_what_is_kept_and_knows_what_is_not(
    first: int, count: int, kept: int, since: int
) -> None:
    feed = ChangeLog(entries(first, first + count), kept=kept)
    feed.append(entries(first + count + 1, first + count + 3))
    last = first + count + 3
    assert feed.revision == last
    is_kept = max(first, last - kept + 1) - 1 <= since <= last
    assert feed.can_resume(since) == is_kept
    if is_kept:
        assert [*feed.after(since)] == entries(since + 1, last)


def test_an_empty_feed_is_at_its_beginning() -> None:
    feed = ChangeLog()
    assert feed.revision == 0
    assert feed.can_resume(0)
    assert not feed.can_resume(1)
    assert [*feed.after(0)] == []


@given(
    since=st.integers(10, 20),
    most=st.integers(2, 12),
    name=st.sampled_from([None, "a", "z"]),
    namespace=st.sampled_from([None, "n", "m", "z"]),
)
def test_a_watch_is_told_all_that_it_wants_however_few_at_a_time(
    since: int, most: int, name: str | None, namespace: str | None
) -> None:
    feed, catalog = ChangeLog(entries(11, 20)), Catalog(revision=20)
    watch = WatchCursor(Command(since=since, name=name, namespace=namespace))
    told: list[str] = []
    while watch.is_behind(feed):
        due = watch.due(feed, catalog, most=most)
        assert len(due.events) <= due.looks <= most
        told += due.events
    assert told == [
        each.event
        for each in entries(since + 1, 20)
        if name in (None, each.name) and (namespace is None or namespace in each.namespaces)
    ]
    assert watch.revision == 20


def test_a_report_on_no_backend_is_for_those_who_filter_nothing() -> None:
    feed = ChangeLog([Entry(1, None, (), "reloaded")])
    for command in (Command(since=0, name="a"), Command(since=0, namespace="n")):
        assert WatchCursor(command).due(feed, Catalog(revision=1), most=9) == ([], 1)
    assert WatchCursor(Command(since=0)).due(feed, Catalog(revision=1), most=9) == (["reloaded"], 1)


def test_a_watch_that_is_too_slow_ends_where_it_can_be_resumed() -> None:
    feed = ChangeLog(entries(1, 3), kept=3)
    watch = WatchCursor(Command(since=0))
    assert watch.due(feed, Catalog(), most=2).events == ["event 1", "event 2"]
    feed.append(entries(4, 5))
    assert watch.due(feed, Catalog(), most=2).events == ["event 3", "event 4"]
    feed.append(entries(6, 8))
    with pytest.raises(WatchEnded) as raised:
        watch.due(feed, Catalog(), most=2)
    assert (raised.value.code, raised.value.revision) == ("too_slow", 4)
    assert "since=4" in raised.value.message


@pytest.mark.parametrize("since", [0, 4, 9])
def test_a_watch_from_an_unknown_revision_begins_anew(since: int) -> None:
    catalog = Catalog([Record(name="a", layer=Layer.AUTO, backend=FULL)], revision=8)
    watch = WatchCursor(Command(since=since))
    compacted, snapshot = watch.due(ChangeLog(entries(6, 8)), catalog, most=2).events
    assert compacted == '{"type":"compacted","revision":8}'
    assert snapshot == events.encode_value(events.Snapshot(revision=8, backends=(FULL,)))
    assert not watch.is_behind(ChangeLog(entries(6, 8)))


def test_a_change_that_is_abandoned_leaves_nothing() -> None:
    transaction = Transaction(Catalog(revision=3), at=7)
    transaction.write("a", (Record(name="a", layer=Layer.RUNTIME, backend=FULL),))
    transaction.report(events.Reloaded(revision=0, count=1, added=("a",)))
    transaction.abandon_change()
    assert transaction.end_change(BY) == 3
    assert (transaction.entries, transaction.changes, transaction.records("a")) == ([], {}, ())


def test_changes_that_undo_each_other_are_told_one_by_one() -> None:
    transaction = Transaction(Catalog(revision=3), at=7)
    name = FULL.name
    transaction.write(name, (Record(name=name, layer=Layer.RUNTIME, backend=FULL),))
    assert transaction.end_change(BY) == 4
    transaction.write(name, ())
    assert transaction.end_change(BY) == 5
    assert transaction.changes == {}
    assert [(each.revision, each.name, each.namespaces) for each in transaction.entries] == [
        (4, name, (FULL.namespace,)),
        (5, name, (FULL.namespace,)),
    ]
    assert (
        transaction.entries[1].event
        == f'{{"type":"backend_deleted","revision":5,"name":"{name}","at":7}}'
    )


def test_a_report_follows_what_became_of_the_backends() -> None:
    transaction = Transaction(Catalog(), at=7)
    transaction.report(events.Reloaded(revision=0, count=1, added=("a",)))
    transaction.write("a", (Record(name="a", layer=Layer.FILE, backend=FULL),))
    assert transaction.end_change(BY) == 2
    kinds = [msgspec.json.decode(each.event)["type"] for each in transaction.entries]
    assert kinds == ["backend_registered", "reloaded"]
    assert msgspec.json.decode(transaction.entries[1].event)["revision"] == 2


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (Command(), ["a", "b"]),
        (Command(name="a"), ["a"]),
        (Command(name="z"), []),
        (Command(namespace="n"), ["b"]),
        (Command(name="a", namespace="n"), []),
        (Command(name="b", namespace="n"), ["b"]),
    ],
)
def test_a_snapshot_holds_what_passes_the_filters(command: Command, names: list[str]) -> None:
    backends = [
        msgspec.structs.replace(FULL, name=n, namespace=s) for n, s in (("a", None), ("b", "n"))
    ]
    records = [Record(name=each.name, layer=Layer.AUTO, backend=each) for each in backends]
    (snapshot,) = WatchCursor(command).due(ChangeLog(), Catalog(records), most=2).events
    assert [each["name"] for each in msgspec.json.decode(snapshot)["backends"]] == names


def test_a_watch_of_a_namespace_is_told_of_a_backend_that_leaves_it() -> None:
    before, after = (msgspec.structs.replace(FULL, namespace=each) for each in ("n", "m"))
    transaction = Transaction(
        Catalog([Record(name=FULL.name, layer=Layer.RUNTIME, backend=before)]), at=7
    )
    transaction.write(FULL.name, (Record(name=FULL.name, layer=Layer.RUNTIME, backend=after),))
    transaction.end_change(BY)
    feed, catalog = ChangeLog(transaction.entries), Catalog()
    for namespace, count in (("n", 1), ("m", 1), ("z", 0)):
        due = WatchCursor(Command(since=0, namespace=namespace)).due(feed, catalog, most=9)
        assert len(due.events) == count, namespace


def test_no_change_more_is_kept_than_is_said() -> None:
    feed = ChangeLog(entries(1, 5), kept=3)
    assert [each.revision for each in feed.after(2)] == [3, 4, 5]
    assert not feed.can_resume(1)
    feed.append(entries(6, 6))
    assert [each.revision for each in feed.after(3)] == [4, 5, 6]
    assert not feed.can_resume(2)


def test_a_watch_of_a_registry_at_revision_0_begins() -> None:
    feed, catalog = ChangeLog(), Catalog()
    for since, count in ((None, 1), (0, 0)):
        watch = WatchCursor(Command(since=since))
        assert watch.is_behind(feed)
        assert len(watch.due(feed, catalog, most=9).events) == count
        assert not watch.is_behind(feed)
