"""The rule table: what a sign makes of a state. Source: manual/health.md, "States"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules.backend import ACTIVE_STATES, Backend, Health, State
from plexus_registry.rules.states import RULES, Sign, after_sign, differs, durable
from tests import strategies as sts

if TYPE_CHECKING:
    from collections.abc import Iterable

signs = st.sampled_from(Sign)
times = st.integers(1, 10**6)


@st.composite
def known_backends(draw: st.DrawFn) -> Backend:
    state = draw(st.sampled_from(State))
    health = Health(state=state, since=draw(times), failures=draw(st.integers(0, 9)))
    backend = draw(sts.backends(name="a"))
    return msgspec.structs.replace(backend, health=health, is_active=state in ACTIVE_STATES)


def after(backend: Backend, signs: Iterable[Sign]) -> State:
    for now, sign in enumerate(signs, start=1):
        backend = after_sign(backend, sign, now=now)
    return backend.state


@given(known_backends(), st.lists(signs))
def test_active_is_who_is_up_or_unknown(backend: Backend, history: list[Sign]) -> None:
    for now, sign in enumerate(history):
        backend = after_sign(backend, sign, now=now)
        assert backend.is_active == (backend.state in {State.UP, State.UNKNOWN})


@given(known_backends(), signs, times)
def test_since_changes_with_the_state_and_only_then(backend: Backend, sign: Sign, now: int) -> None:
    then = after_sign(backend, sign, now=now)
    assert backend.health is not None
    assert then.health is not None
    stays = then.state is backend.state
    assert then.health.since == (backend.health.since if stays else now)


@given(known_backends(), st.lists(signs))
def test_one_answer_revives_whatever_happened(backend: Backend, history: list[Sign]) -> None:
    assert after(backend, [*history, Sign.ANSWER]) is State.UP


@given(known_backends(), signs)
def test_a_ping_revives_all_but_who_leads_to_another_hub(backend: Backend, sign: Sign) -> None:
    backend = after_sign(backend, sign, now=1)
    expected = State.WRONG_HUB if backend.state is State.WRONG_HUB else State.UP
    assert after(backend, [Sign.PING]) is expected


@given(known_backends(), st.lists(signs))
def test_a_goodbye_and_another_name_hold_at_once(backend: Backend, history: list[Sign]) -> None:
    assert after(backend, [*history, Sign.GOODBYE]) is State.DEREGISTERED
    assert after(backend, [*history, Sign.OTHER_NAME]) is State.WRONG_HUB


@pytest.mark.parametrize("sign", Sign)
def test_a_sign_twice_is_no_more_than_once(sign: Sign) -> None:
    for state in State:
        once = RULES[sign].get(state, state)
        assert RULES[sign].get(once, once) is once


def test_no_lack_of_evidence_revives_anybody() -> None:
    for sign in (Sign.NO_ANSWER, Sign.SILENCE, Sign.GOODBYE, Sign.FAREWELL, Sign.OTHER_NAME):
        assert not ACTIVE_STATES.intersection(RULES[sign].values())


@given(sts.backends(name="a"), signs)
def test_who_was_never_judged_starts_from_what_an_older_version_noted(
    backend: Backend, sign: Sign
) -> None:
    if backend.is_active:
        state = State.UP if backend.pings else State.UNKNOWN
    else:
        state = State.STALE if backend.pings else State.DEREGISTERED
    assert backend.state is state
    assert after_sign(backend, None, now=5).state is state
    assert after_sign(backend, sign, now=5).state is RULES[sign].get(state, state)


@given(known_backends(), times)
def test_what_a_probe_brings_is_no_lasting_difference(backend: Backend, now: int) -> None:
    seen = {"last_probe": now, "latency_ms": 1.5, "failures": 1}
    probed = after_sign(backend, None, now=now, reason="refused", seen=seen)
    assert not differs(backend, probed)
    assert probed.health is not None
    assert backend.health is not None
    kept, former = durable(probed.health), durable(backend.health)
    assert msgspec.structs.replace(kept, reason=None) == msgspec.structs.replace(
        former, reason=None
    )


@given(known_backends())
def test_a_new_surface_is_a_lasting_difference(backend: Backend) -> None:
    seen = {"schema_hash": "0f1e2d3c4b5a6978"}
    assert differs(backend, after_sign(backend, None, now=1, seen=seen))
