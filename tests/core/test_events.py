"""Events and backends as they are on the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from plexus_registry.core import events
from plexus_registry.core.errors import NameTaken
from plexus_registry.core.model import Backend
from tests import strategies as sts
from tests.core.wire_shapes import BARE, BARE_TEXT, FULL, FULL_TEXT, decoded, fresh

SHAPES = [
    (events.BackendRegistered(backend=BARE), f'"backend_registered","backend":{BARE_TEXT}'),
    (events.BackendUpdated(backend=FULL), f'"backend_updated","backend":{FULL_TEXT}'),
    (events.BackendDeleted(name="a"), '"backend_deleted","name":"a"'),
    (events.BackendDeregistered(name="a"), '"backend_deregistered","name":"a"'),
    (
        events.pinged("a", success=True),
        '"ping","name":"a","success":true,"message":"Backend health check updated"',
    ),
    (
        events.pinged("a", success=False),
        '"ping","name":"a","success":false,"message":"Backend not found: a"',
    ),
    (
        events.Reloaded(count=2, added=("a",), removed=("b", "c")),
        '"reloaded","count":2,"added":["a"],"updated":[],"removed":["b","c"]',
    ),
]


@pytest.mark.parametrize(("event", "members"), SHAPES, ids=[text[:30] for _, text in SHAPES])
def test_events_have_the_shape_of_the_protocol(event: events.Event, members: str) -> None:
    assert events.encode_event(event) == f'{{"type":{members}}}'


def test_a_refusal_is_reported_with_its_word_and_data() -> None:
    refusal = NameTaken("taken", holder=BARE)
    assert events.encode_failed(refusal) == (
        f'{{"type":"error","message":"taken","code":"name_taken","holder":{BARE_TEXT}}}'
    )


@given(sts.backends(wide=True))
def test_a_backend_is_encoded_with_its_members_in_order(backend: Backend) -> None:
    encoded = decoded(events.encode_backend(backend))
    assert [*encoded] == [*fresh(backend)]
    assert encoded == fresh(backend)
    assert msgspec.json.decode(events.encode_backend(backend), type=Backend) == backend
