"""Evidence weighed: pings, probes, goodbyes, pauses, and the guards against false alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plexus_registry.health.probe_history import FIRST_HOLD
from plexus_registry.health.self_preservation import ROUNDS
from plexus_registry.health.tracker import HealthTracker, Policy
from plexus_registry.rules.backend import Backend, Source, State
from plexus_registry.rules.probe_results import (
    Answered,
    Outcome,
    Unanswered,
    Unchecked,
    Untried,
    is_answer_of,
)
from plexus_registry.rules.states import Sign, after_sign

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERVAL = 15.0
FAILURES = 3
POLICY = Policy(stale_after=60.0, probe_interval=INTERVAL, probe_failures=FAILURES)
REFUSED = Unanswered(reason="connect: connection refused")
FORBIDDEN = Unchecked(reason="not in the networks")


def answer(name: str, **more: str) -> Answered:
    return Answered(name=name, latency_ms=1.5, **more)


def backend_of(name: str, host: str = "h") -> Backend:
    return Backend(
        id="1",
        name=name,
        host=host,
        port=1,
        protocol="ws",
        source=Source.MANUAL,
        is_active=True,
        registered_at=0,
        created_at=0,
        updated_at=0,
    )


class Ward:
    """Some backends and their vitals, as the registry keeps them."""

    def __init__(self, *names: str, policy: Policy = POLICY) -> None:
        self.tracker = HealthTracker(policy)
        self.backends: dict[str, Backend] = {}
        self.moment = 0.0
        for name in names:
            self.publish(name, backend_of(name))

    @property
    def now(self) -> int:
        return int(self.moment)

    def publish(self, name: str, after: Backend | None) -> bool:
        before = self.backends.pop(name, None)
        if after is not None:
            self.backends[name] = after
        return self.tracker.note_change(name, before, after, moment=self.moment)

    def state(self, name: str = "a") -> State:
        return self.backends[name].state

    def reason(self, name: str = "a") -> str | None:
        health = self.backends[name].health
        return None if health is None else health.reason

    def probe(self, name: str, outcome: Outcome, *, seconds: float = 0.0) -> None:
        backend, moment = self.backends[name], self.moment
        if self.tracker.note_probe(backend, outcome, began=moment - seconds, moment=moment):
            after = self.tracker.after_probe(backend, outcome, now=self.now, moment=moment)
            self.publish(name, after)

    def rounds(self, outcomes: Sequence[Outcome], *names: str) -> None:
        for outcome in outcomes:
            for name in names or ("a",):
                self.probe(name, outcome)
            self.moment += INTERVAL

    def ping(self, name: str = "a") -> None:
        pinged = after_sign(self.backends[name], Sign.PING, now=self.now)
        self.publish(name, msgspec.structs.replace(pinged, last_seen=self.now))
        self.tracker.note_ping(name, moment=self.moment)

    def goodbye(self, name: str = "a") -> bool:
        return self.publish(name, after_sign(self.backends[name], Sign.GOODBYE, now=self.now))

    def sweep(self) -> None:
        for name in list(self.tracker.silent_names(moment=self.moment)):
            after = self.tracker.after_silence(
                self.backends[name], now=self.now, moment=self.moment
            )
            self.publish(name, after)


def test_three_failures_in_a_row_take_it_down_and_one_answer_brings_it_back() -> None:
    ward = Ward("a")
    ward.probe("a", answer("a"))
    ward.rounds([REFUSED, REFUSED, answer("a"), REFUSED, REFUSED])
    assert ward.state() is State.UP
    ward.probe("a", REFUSED)
    assert ward.state() is State.DOWN
    assert ward.reason() == "3 probes in a row failed, the last one: connect: connection refused"
    ward.probe("a", answer("a", version="2", schema_hash="0f1e2d3c4b5a6978"))
    assert ward.state() is State.UP
    health = ward.backends["a"].health
    assert health is not None
    assert (health.failures, health.reason, health.latency_ms) == (0, None, 1.5)
    assert health.schema_hash == "0f1e2d3c4b5a6978"
    assert ward.backends["a"].version == "2"


def test_it_stays_unknown_until_enough_probes_failed() -> None:
    ward = Ward("a")
    ward.rounds([REFUSED, REFUSED])
    assert ward.state() is State.UNKNOWN
    assert ward.reason() == "connect: connection refused"
    ward.probe("a", REFUSED)
    assert ward.state() is State.DOWN


def test_pings_in_time_keep_up_who_cannot_be_reached() -> None:
    ward = Ward("a")
    for _ in range(10):
        ward.ping()
        ward.rounds([REFUSED] * 3)
        ward.sweep()
        assert ward.state() is State.UP
    ward.moment += 60
    ward.sweep()
    assert ward.state() is State.DOWN
    assert ward.reason() == "no ping for 60 s, and 30 probes in a row failed"


def test_probes_keep_up_who_stopped_to_ping() -> None:
    ward = Ward("a")
    ward.ping()
    for _ in range(10):
        ward.rounds([answer("a")])
        ward.sweep()
        assert ward.state() is State.UP
    ward.rounds([REFUSED] * 3)
    assert ward.state() is State.DOWN


def test_without_probes_silence_makes_stale() -> None:
    ward = Ward("a", "b", policy=Policy())
    ward.ping()
    ward.moment += 61
    ward.sweep()
    assert ward.state("a") is State.STALE
    assert ward.state("b") is State.UNKNOWN


def test_who_must_not_be_probed_lives_by_its_pings() -> None:
    ward = Ward("a")
    ward.ping()
    ward.probe("a", FORBIDDEN)
    ward.sweep()
    assert ward.state() is State.UP
    ward.moment += 61
    ward.sweep()
    assert ward.state() is State.STALE


def test_who_cannot_be_checked_any_more_is_not_held_down_for_ever() -> None:
    ward = Ward("a")
    ward.rounds([REFUSED] * 3)
    ward.probe("a", FORBIDDEN)
    assert ward.state() is State.UNKNOWN
    assert ward.reason() == "not in the networks"
    health = ward.backends["a"].health
    assert health is not None
    assert health.latency_ms is None


def test_who_cannot_be_checked_any_more_shows_no_answer_of_before() -> None:
    ward = Ward("a")
    ward.probe("a", answer("a"))
    ward.probe("a", FORBIDDEN)
    health = ward.backends["a"].health
    assert health is not None
    assert health.latency_ms is None


def test_another_name_makes_it_inactive_at_once_and_pings_do_not_help() -> None:
    ward = Ward("a")
    ward.probe("a", answer("b\x1b[31m"))
    assert ward.state() is State.WRONG_HUB
    assert ward.reason() == 'it answers as "b\\u001b[31m", not as "a"'
    ward.ping()
    assert ward.state() is State.WRONG_HUB
    ward.probe("a", answer("a"))
    assert ward.state() is State.UP


def test_the_namespace_that_was_registered_is_right_too() -> None:
    backend = msgspec.structs.replace(backend_of("a"), namespace="substrate")
    assert is_answer_of(backend, answer("substrate"))
    assert is_answer_of(backend, answer("a"))
    assert not is_answer_of(backend, answer("b"))
    assert not is_answer_of(backend_of("a"), answer("substrate"))


def test_a_goodbye_is_checked_at_once_and_a_hub_that_answers_comes_back() -> None:
    ward = Ward("a")
    ward.probe("a", answer("a"))
    assert ward.goodbye()
    assert ward.state() is State.DEREGISTERED
    assert not ward.goodbye(), "nothing new"
    ward.probe("a", answer("a"))
    assert ward.state() is State.UP
    assert ward.tracker.is_leaving("a")


def test_a_hub_that_answers_while_it_stops_is_gone_at_the_next_failure() -> None:
    ward = Ward("a")
    ward.goodbye()
    ward.probe("a", answer("a"))
    ward.probe("a", REFUSED)
    assert ward.state() is State.DEREGISTERED
    assert ward.reason() == "it said goodbye, and is gone: connect: connection refused"


@pytest.mark.parametrize("sign", ["answer", "ping", "registration"])
def test_what_ends_the_doubt(sign: str) -> None:
    ward = Ward("a")
    ward.goodbye()
    if sign == "registration":
        assert ward.publish("a", backend_of("a")), "it is probed at once"
    ward.probe("a", answer("a"))
    if sign == "answer":
        ward.probe("a", answer("a"))
    if sign == "ping":
        ward.ping()
    ward.probe("a", REFUSED)
    assert ward.state() is State.UP


@pytest.mark.parametrize("news", ["goodbye", "registration", "pause"])
def test_what_a_probe_found_that_began_before_the_news_says_nothing(news: str) -> None:
    ward = Ward("a")
    ward.rounds([answer("a"), REFUSED, REFUSED])
    if news == "goodbye":
        ward.goodbye()
    elif news == "registration":
        ward.publish("a", backend_of("a"))
    else:
        ward.tracker.note_pause(1, moment=ward.moment)
    before = ward.backends["a"]
    ward.probe("a", answer("a") if news == "goodbye" else REFUSED, seconds=1)
    assert ward.backends["a"] == before


def test_failures_leave_a_goodbye_a_goodbye() -> None:
    ward = Ward("a")
    ward.goodbye()
    ward.rounds([REFUSED] * 5)
    assert ward.state() is State.DEREGISTERED


def test_a_new_address_starts_from_nothing() -> None:
    ward = Ward("a")
    ward.rounds([REFUSED] * 2)
    assert ward.publish("a", backend_of("a", host="elsewhere"))
    ward.rounds([REFUSED] * 2)
    assert ward.state() is State.UNKNOWN


def test_who_is_gone_is_forgotten() -> None:
    ward = Ward("a")
    ward.rounds([REFUSED] * 2)
    gone = ward.backends["a"]
    assert not ward.publish("a", None)
    assert ward.tracker.after_probe(gone, REFUSED, now=0, moment=0) is gone


def test_a_pause_voids_the_probe_that_it_overlaps_and_no_failure_before_it() -> None:
    ward = Ward("a")
    ward.probe("a", answer("a"))
    ward.rounds([REFUSED] * 2)
    ward.tracker.note_pause(100, moment=ward.moment)
    ward.probe("a", REFUSED, seconds=1)
    assert ward.state() is State.UP
    ward.moment += 1
    ward.probe("a", REFUSED)
    assert ward.state() is State.DOWN


def test_a_pause_is_given_back_to_the_suspicion() -> None:
    names = [f"hub{index}" for index in range(5)]
    ward = Ward(*names)
    for name in names:
        ward.probe(name, answer(name))
    ward.rounds([REFUSED] * 3, *names)
    ward.moment += 10 * INTERVAL
    ward.tracker.note_pause(10 * INTERVAL, moment=ward.moment)
    ward.rounds([REFUSED], *names)
    assert {ward.state(name) for name in names} == {State.UP}


def test_a_backend_that_comes_and_goes_is_held_down_longer_and_longer() -> None:
    ward = Ward("a")
    for _ in range(2):
        ward.probe("a", answer("a"))
        assert ward.state() is State.UP, "the first falls cost nothing"
        ward.rounds([REFUSED] * 3)
    ward.probe("a", answer("a"))
    ward.rounds([REFUSED] * 3)
    ward.probe("a", answer("a"))
    assert ward.state() is State.DOWN
    assert ward.reason() == (
        "it answers again, but went down 3 times lately: it is held down for 15 s more"
    )
    ward.moment += FIRST_HOLD
    ward.probe("a", answer("a"))
    assert ward.state() is State.UP


def test_when_most_fail_at_once_nobody_is_marked_for_five_rounds() -> None:
    names = [f"hub{index}" for index in range(10)]
    ward = Ward(*names)
    for name in names:
        ward.probe(name, answer(name))
    ward.moment += INTERVAL
    ward.rounds([REFUSED] * ROUNDS, *names)
    assert ward.tracker.suspects_network
    assert {ward.state(name) for name in names} == {State.UP}
    ward.rounds([REFUSED], *names)
    assert [ward.state(name) for name in names].count(State.DOWN) == 3
    ward.rounds([REFUSED] * 3, *names)
    assert {ward.state(name) for name in names} == {State.DOWN}
    assert not ward.tracker.suspects_network


def test_who_was_not_even_asked_is_as_before() -> None:
    ward = Ward("a")
    ward.probe("a", answer("a"))
    before = ward.backends["a"]
    untried = Untried(reason="connect: too many open files")
    ward.rounds([untried] * 5)
    assert ward.backends["a"] is before
    ward.rounds([REFUSED, REFUSED, untried, REFUSED])
    assert ward.state() is State.DOWN, "neither a failure nor an answer"


def test_when_the_network_is_back_nobody_was_ever_away() -> None:
    names = [f"hub{index}" for index in range(5)]
    ward = Ward(*names)
    for name in names:
        ward.probe(name, answer(name))
    ward.rounds([REFUSED] * 4, *names)
    for name in names:
        ward.probe(name, answer(name))
    assert not ward.tracker.suspects_network
    assert {ward.state(name) for name in names} == {State.UP}


@given(st.lists(st.sampled_from(["sweep", "wait", "pause"])))
def test_who_is_under_no_check_is_active_for_ever(history: list[str]) -> None:
    ward = Ward("a", policy=Policy())
    for step in history:
        ward.moment += 0 if step == "sweep" else 1000
        if step == "pause":
            ward.tracker.note_pause(1000, moment=ward.moment)
        ward.sweep()
        assert ward.backends["a"].is_active


def test_a_probe_that_took_longer_than_it_may_says_nothing() -> None:
    ward = Ward("a", policy=Policy(probe_interval=INTERVAL, probe_failures=1))
    ward.moment += 10
    ward.probe("a", REFUSED, seconds=3.0)  # this process did not run for a while
    assert ward.state() is State.UNKNOWN
    ward.probe("a", REFUSED, seconds=2.1)
    assert ward.state() is State.DOWN


def test_failures_at_the_same_time_are_one() -> None:
    ward = Ward("a")
    ward.moment += 10
    for _ in range(FAILURES):
        ward.probe("a", REFUSED, seconds=2.0)
    assert ward.state() is State.UNKNOWN


def test_what_an_earlier_backend_of_the_address_answered_says_nothing() -> None:
    ward = Ward("a")
    ward.moment += 10
    ward.publish("a", None)
    ward.publish("a", backend_of("a"))
    ward.probe("a", answer("other"), seconds=1.0)
    assert ward.state() is State.UNKNOWN


def test_a_registration_voids_the_failures_before_it() -> None:
    ward = Ward("a")
    ward.rounds([answer("a"), REFUSED, REFUSED])
    ward.tracker.note_registration("a", moment=ward.moment)
    ward.probe("a", REFUSED, seconds=1.0)
    ward.rounds([REFUSED, REFUSED])
    assert ward.state() is State.UP
    ward.probe("a", REFUSED)
    assert ward.state() is State.DOWN


def test_who_answers_now_and_then_after_a_goodbye_is_held_down() -> None:
    ward = Ward("a")
    for _ in range(3):
        assert ward.goodbye()  # to be probed at once
        ward.rounds([answer("a")])
        assert ward.state() is State.UP
        assert ward.tracker.is_leaving("a")
        ward.rounds([REFUSED])
        assert ward.state() is State.DEREGISTERED
        assert not ward.tracker.is_leaving("a")
        ward.ping()
    ward.goodbye()
    ward.probe("a", answer("a"))
    assert ward.state() is State.DEREGISTERED
    assert "held down" in str(ward.reason())


class VitalsMachine(RuleBasedStateMachine):
    """Any history of two backends (too few for the guard), against the rule in plain words."""

    @initialize()
    def start(self) -> None:
        self.ward = Ward("a", "b")
        self.failures = dict.fromkeys("ab", 0)
        self.pinged: dict[str, float] = {}
        self.goodbye_at: dict[str, bool] = dict.fromkeys("ab", False)
        self.doubted: dict[str, bool] = dict.fromkeys("ab", False)
        self.expected: dict[str, State] = dict.fromkeys("ab", State.UNKNOWN)
        self.falls = dict.fromkeys("ab", 0)

    @rule(seconds=st.sampled_from([1, 20, 61]))
    def wait(self, seconds: int) -> None:
        self.ward.moment += seconds

    @rule(name=st.sampled_from("ab"))
    def ping(self, name: str) -> None:
        self.ward.ping(name)
        self.pinged[name] = self.ward.moment
        self.doubted[name] = False
        if self.expected[name] is not State.WRONG_HUB:
            self.expected[name] = State.UP

    @rule(name=st.sampled_from("ab"))
    def is_answered(self, name: str) -> None:
        self.ward.probe(name, answer(name))
        self.failures[name] = 0
        if self.expected[name] is State.UP:
            self.doubted[name] = False
        self.expected[name] = State.UP

    @rule(name=st.sampled_from("ab"))
    def is_answered_by_another(self, name: str) -> None:
        self.ward.probe(name, answer("other"))
        self.failures[name] = 0
        self._fall(name, State.WRONG_HUB)

    @rule(name=st.sampled_from("ab"))
    def fails(self, name: str) -> None:
        self.ward.probe(name, REFUSED)
        self.failures[name] += 1
        state = self.expected[name]
        is_pinged = self.ward.moment - self.pinged.get(name, -1000) < POLICY.stale_after
        pings = is_pinged and state is not State.WRONG_HUB
        if self.doubted[name]:
            if state is State.UP:
                self.doubted[name] = False
                self._fall(name, State.DEREGISTERED)
        elif (
            self.failures[name] >= FAILURES
            and not pings
            and state in {State.UNKNOWN, State.UP, State.WRONG_HUB}
        ):
            self._fall(name, State.DOWN)

    @rule(name=st.sampled_from("ab"))
    def say_goodbye(self, name: str) -> None:
        self.ward.goodbye(name)
        if self.expected[name] is not State.DEREGISTERED:
            self.doubted[name] = True
        self.expected[name] = State.DEREGISTERED

    @rule(name=st.sampled_from("ab"), host=st.sampled_from(["h", "elsewhere"]))
    def register_anew(self, name: str, host: str) -> None:
        moved = host != self.ward.backends[name].host
        self.ward.publish(name, backend_of(name, host=host))
        self.failures[name], self.doubted[name] = 0, False
        self.pinged.pop(name, None)
        self.expected[name] = State.UNKNOWN
        if moved:
            self.falls[name] = 0

    @rule()
    def sweep(self) -> None:
        self.ward.sweep()
        for name, pinged in [*self.pinged.items()]:
            silent = self.ward.moment - pinged >= POLICY.stale_after
            lapsed = self.failures[name] >= FAILURES
            if silent and lapsed and self.expected[name] in {State.UP, State.UNKNOWN}:
                self._fall(name, State.DOWN)

    def _fall(self, name: str, state: State) -> None:
        was_up = self.expected[name] is State.UP
        self.expected[name] = state
        if was_up:
            self.falls[name] += 1
        if self.falls[name] >= 2:
            # Damping has its own tests: here it starts anew before it ever holds anyone down.
            host = "h" if self.ward.backends[name].host != "h" else "elsewhere"
            self.register_anew(name, host)

    @invariant()
    def everyone_is_as_the_rule_says(self) -> None:
        for name, expected in self.expected.items():
            assert self.ward.state(name) is expected, name


TestVitals = pytest.mark.slow(VitalsMachine.TestCase)
