"""Events and backends as they are on the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from plexus_registry.rules import events
from plexus_registry.rules.backend import Backend
from plexus_registry.rules.errors import NameTaken
from tests import strategies as sts
from tests.rpc.message_shapes import BARE, BARE_TEXT, FULL, FULL_TEXT, decoded, fresh

SHAPES = [
    (
        events.BackendRegistered(backend=BARE, revision=1),
        f'"backend_registered","revision":1,"backend":{BARE_TEXT}',
    ),
    (
        events.BackendUpdated(backend=FULL, revision=2),
        f'"backend_updated","revision":2,"backend":{FULL_TEXT}',
    ),
    (events.BackendDeleted(name="a", revision=3), '"backend_deleted","revision":3,"name":"a"'),
    (
        events.BackendDeregistered(name="a", revision=4),
        '"backend_deregistered","revision":4,"name":"a"',
    ),
    (
        events.BackendStale(backend=BARE, revision=5),
        f'"backend_stale","revision":5,"backend":{BARE_TEXT}',
    ),
    (
        events.BackendActive(backend=BARE, revision=6),
        f'"backend_active","revision":6,"backend":{BARE_TEXT}',
    ),
    (
        events.Snapshot(backends=(BARE,), revision=7),
        f'"snapshot","revision":7,"backends":[{BARE_TEXT}]',
    ),
    (events.Compacted(revision=8), '"compacted","revision":8'),
    (
        events.pinged("a", success=True),
        '"ping","name":"a","success":true,"message":"Backend health check updated"',
    ),
    (
        events.pinged("a", success=True, revision=9),
        '"ping","name":"a","success":true,"message":"Backend health check updated","revision":9',
    ),
    (
        events.pinged("a", success=False),
        '"ping","name":"a","success":false,"message":"Backend not found: a"',
    ),
    (
        events.Reloaded(revision=3, at=5, count=2, added=("a",), removed=("b", "c")),
        '"reloaded","revision":3,"count":2,"added":["a"],"updated":[],"removed":["b","c"],"at":5',
    ),
]


@pytest.mark.parametrize(("event", "members"), SHAPES, ids=[text[:30] for _, text in SHAPES])
def test_events_have_the_shape_of_the_protocol(event: events.Event, members: str) -> None:
    assert events.encode_value(event) == f'{{"type":{members}}}'


def test_a_refusal_is_reported_with_its_word_and_data() -> None:
    refusal = NameTaken("taken", holder=BARE)
    assert events.encode_failed(refusal) == (
        f'{{"type":"error","message":"taken","code":"name_taken","holder":{BARE_TEXT}}}'
    )


@given(sts.backends(wide=True))
def test_a_backend_is_encoded_with_its_members_in_order(backend: Backend) -> None:
    encoded = decoded(events.encode_value(backend))
    assert [*encoded] == [*fresh(backend)]
    assert encoded == fresh(backend)
    assert msgspec.json.decode(events.encode_value(backend), type=Backend) == backend
