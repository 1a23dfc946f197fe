"""Evidence weighed: pings, probes, goodbyes, pauses, and the guards against false alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plexus_registry.health.evidence import FIRST_HOLD, ROUNDS
from plexus_registry.health.tracker import HealthTracker, Policy
from plexus_registry.rules.backend import Backend, Source, State
from plexus_registry.rules.states import (
    Answered,
    Outcome,
    Sign,
    Unanswered,
    Unchecked,
    Untried,
    after_sign,
    is_answer_of,
)

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


class Harness:
    """Some backends, and the tracker of their health."""

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
    harness = Harness("a")
    harness.probe("a", answer("a"))
    harness.rounds([REFUSED, REFUSED, answer("a"), REFUSED, REFUSED])
    assert harness.state() is State.UP
    harness.probe("a", REFUSED)
    assert harness.state() is State.DOWN
    assert harness.reason() == "3 probes in a row failed, the last one: connect: connection refused"
    harness.probe("a", answer("a", version="2", schema_hash="0f1e2d3c4b5a6978"))
    assert harness.state() is State.UP
    health = harness.backends["a"].health
    assert health is not None
    assert (health.failures, health.reason, health.latency_ms) == (0, None, 1.5)
    assert health.schema_hash == "0f1e2d3c4b5a6978"
    assert harness.backends["a"].version == "2"


def test_it_stays_unknown_until_enough_probes_failed() -> None:
    harness = Harness("a")
    harness.rounds([REFUSED, REFUSED])
    assert harness.state() is State.UNKNOWN
    assert harness.reason() == "connect: connection refused"
    harness.probe("a", REFUSED)
    assert harness.state() is State.DOWN


def test_pings_keep_a_backend_up_that_cannot_be_reached() -> None:
    harness = Harness("a")
    for _ in range(10):
        harness.ping()
        harness.rounds([REFUSED] * 3)
        harness.sweep()
        assert harness.state() is State.UP
    harness.moment += 60
    harness.sweep()
    assert harness.state() is State.DOWN
    assert harness.reason() == "no ping for 60 s, and 30 probes in a row failed"


def test_probes_keep_a_backend_up_that_stopped_pinging() -> None:
    harness = Harness("a")
    harness.ping()
    for _ in range(10):
        harness.rounds([answer("a")])
        harness.sweep()
        assert harness.state() is State.UP
    harness.rounds([REFUSED] * 3)
    assert harness.state() is State.DOWN


def test_without_probes_silence_makes_stale() -> None:
    harness = Harness("a", "b", policy=Policy())
    harness.ping()
    harness.moment += 61
    harness.sweep()
    assert harness.state("a") is State.STALE
    assert harness.state("b") is State.UNKNOWN


def test_a_backend_that_must_not_be_probed_depends_on_its_pings() -> None:
    harness = Harness("a")
    harness.ping()
    harness.probe("a", FORBIDDEN)
    harness.sweep()
    assert harness.state() is State.UP
    harness.moment += 61
    harness.sweep()
    assert harness.state() is State.STALE


def test_a_backend_that_cannot_be_probed_any_more_is_not_held_down_for_ever() -> None:
    harness = Harness("a")
    harness.rounds([REFUSED] * 3)
    harness.probe("a", FORBIDDEN)
    assert harness.state() is State.UNKNOWN
    assert harness.reason() == "not in the networks"
    health = harness.backends["a"].health
    assert health is not None
    assert health.latency_ms is None


def test_a_backend_that_cannot_be_probed_any_more_shows_no_earlier_answer() -> None:
    harness = Harness("a")
    harness.probe("a", answer("a"))
    harness.probe("a", FORBIDDEN)
    health = harness.backends["a"].health
    assert health is not None
    assert health.latency_ms is None


def test_another_name_makes_it_inactive_at_once_and_pings_do_not_help() -> None:
    harness = Harness("a")
    harness.probe("a", answer("b\x1b[31m"))
    assert harness.state() is State.WRONG_HUB
    assert harness.reason() == 'it answers as "b\\u001b[31m", not as "a"'
    harness.ping()
    assert harness.state() is State.WRONG_HUB
    harness.probe("a", answer("a"))
    assert harness.state() is State.UP


def test_the_namespace_that_was_registered_is_right_too() -> None:
    backend = msgspec.structs.replace(backend_of("a"), namespace="substrate")
    assert is_answer_of(backend, answer("substrate"))
    assert is_answer_of(backend, answer("a"))
    assert not is_answer_of(backend, answer("b"))
    assert not is_answer_of(backend_of("a"), answer("substrate"))


def test_a_goodbye_is_checked_at_once_and_a_hub_that_answers_comes_back() -> None:
    harness = Harness("a")
    harness.probe("a", answer("a"))
    assert harness.goodbye()
    assert harness.state() is State.DEREGISTERED
    assert not harness.goodbye(), "nothing new"
    harness.probe("a", answer("a"))
    assert harness.state() is State.UP
    assert harness.tracker.history("a").is_leaving


def test_a_hub_that_answers_while_it_stops_is_gone_at_the_next_failure() -> None:
    harness = Harness("a")
    harness.goodbye()
    harness.probe("a", answer("a"))
    harness.probe("a", REFUSED)
    assert harness.state() is State.DEREGISTERED
    assert harness.reason() == "it said goodbye, and is gone: connect: connection refused"


@pytest.mark.parametrize("sign", ["answer", "ping", "registration"])
def test_any_sign_of_life_after_the_first_answer_ends_a_goodbye(sign: str) -> None:
    harness = Harness("a")
    harness.goodbye()
    if sign == "registration":
        assert harness.publish("a", backend_of("a")), "it is probed at once"
    harness.probe("a", answer("a"))
    if sign == "answer":
        harness.probe("a", answer("a"))
    if sign == "ping":
        harness.ping()
    harness.probe("a", REFUSED)
    assert harness.state() is State.UP


@pytest.mark.parametrize("news", ["goodbye", "registration", "pause"])
def test_the_outcome_of_a_probe_that_began_before_the_news_is_void(news: str) -> None:
    harness = Harness("a")
    harness.rounds([answer("a"), REFUSED, REFUSED])
    if news == "goodbye":
        harness.goodbye()
    elif news == "registration":
        harness.publish("a", backend_of("a"))
    else:
        harness.tracker.note_pause(1, moment=harness.moment)
    before = harness.backends["a"]
    harness.probe("a", answer("a") if news == "goodbye" else REFUSED, seconds=1)
    assert harness.backends["a"] == before


def test_failures_after_a_goodbye_change_nothing() -> None:
    harness = Harness("a")
    harness.goodbye()
    harness.rounds([REFUSED] * 5)
    assert harness.state() is State.DEREGISTERED


def test_a_new_address_starts_from_nothing() -> None:
    harness = Harness("a")
    harness.rounds([REFUSED] * 2)
    assert harness.publish("a", backend_of("a", host="elsewhere"))
    harness.rounds([REFUSED] * 2)
    assert harness.state() is State.UNKNOWN


def test_a_backend_that_is_gone_is_forgotten() -> None:
    harness = Harness("a")
    harness.rounds([REFUSED] * 2)
    gone = harness.backends["a"]
    assert not harness.publish("a", None)
    assert harness.tracker.after_probe(gone, REFUSED, now=0, moment=0) is gone


def test_a_pause_voids_the_probe_that_it_overlaps_and_no_failure_before_it() -> None:
    harness = Harness("a")
    harness.probe("a", answer("a"))
    harness.rounds([REFUSED] * 2)
    harness.tracker.note_pause(100, moment=harness.moment)
    harness.probe("a", REFUSED, seconds=1)
    assert harness.state() is State.UP
    harness.moment += 1
    harness.probe("a", REFUSED)
    assert harness.state() is State.DOWN


def test_a_pause_prolongs_the_suspicion() -> None:
    names = [f"hub{index}" for index in range(5)]
    harness = Harness(*names)
    for name in names:
        harness.probe(name, answer(name))
    harness.rounds([REFUSED] * 3, *names)
    harness.moment += 10 * INTERVAL
    harness.tracker.note_pause(10 * INTERVAL, moment=harness.moment)
    harness.rounds([REFUSED], *names)
    assert {harness.state(name) for name in names} == {State.UP}


def test_a_backend_that_comes_and_goes_is_held_down_longer_and_longer() -> None:
    harness = Harness("a")
    for _ in range(2):
        harness.probe("a", answer("a"))
        assert harness.state() is State.UP, "the first falls cost nothing"
        harness.rounds([REFUSED] * 3)
    harness.probe("a", answer("a"))
    harness.rounds([REFUSED] * 3)
    harness.probe("a", answer("a"))
    assert harness.state() is State.DOWN
    assert harness.reason() == (
        "it answers again, but went down 3 times lately: it is held down for 15 s more"
    )
    harness.moment += FIRST_HOLD
    harness.probe("a", answer("a"))
    assert harness.state() is State.UP


def test_when_most_fail_at_once_none_is_marked_for_five_rounds() -> None:
    names = [f"hub{index}" for index in range(10)]
    harness = Harness(*names)
    for name in names:
        harness.probe(name, answer(name))
    harness.moment += INTERVAL
    harness.rounds([REFUSED] * ROUNDS, *names)
    assert harness.tracker.suspects_network
    assert {harness.state(name) for name in names} == {State.UP}
    harness.rounds([REFUSED], *names)
    assert [harness.state(name) for name in names].count(State.DOWN) == 3
    harness.rounds([REFUSED] * 3, *names)
    assert {harness.state(name) for name in names} == {State.DOWN}
    assert not harness.tracker.suspects_network


def test_a_backend_that_could_not_be_probed_stays_as_it_is() -> None:
    harness = Harness("a")
    harness.probe("a", answer("a"))
    before = harness.backends["a"]
    untried = Untried(reason="connect: too many open files")
    harness.rounds([untried] * 5)
    assert harness.backends["a"] is before
    harness.rounds([REFUSED, REFUSED, untried, REFUSED])
    assert harness.state() is State.DOWN, "neither a failure nor an answer"


def test_when_the_network_is_back_all_backends_have_stayed_up() -> None:
    names = [f"hub{index}" for index in range(5)]
    harness = Harness(*names)
    for name in names:
        harness.probe(name, answer(name))
    harness.rounds([REFUSED] * 4, *names)
    for name in names:
        harness.probe(name, answer(name))
    assert not harness.tracker.suspects_network
    assert {harness.state(name) for name in names} == {State.UP}


@given(st.lists(st.sampled_from(["sweep", "wait", "pause"])))
def test_a_backend_without_evidence_is_active_for_ever(history: list[str]) -> None:
    harness = Harness("a", policy=Policy())
    for step in history:
        harness.moment += 0 if step == "sweep" else 1000
        if step == "pause":
            harness.tracker.note_pause(1000, moment=harness.moment)
        harness.sweep()
        assert harness.backends["a"].is_active


def test_a_probe_that_took_longer_than_its_timeout_is_void() -> None:
    harness = Harness("a", policy=Policy(probe_interval=INTERVAL, probe_failures=1))
    harness.moment += 10
    harness.probe("a", REFUSED, seconds=3.0)  # this process did not run for a while
    assert harness.state() is State.UNKNOWN
    harness.probe("a", REFUSED, seconds=2.1)
    assert harness.state() is State.DOWN


def test_failures_at_the_same_time_are_one() -> None:
    harness = Harness("a")
    harness.moment += 10
    for _ in range(FAILURES):
        harness.probe("a", REFUSED, seconds=2.0)
    assert harness.state() is State.UNKNOWN


def test_an_answer_of_an_earlier_address_is_void() -> None:
    harness = Harness("a")
    harness.moment += 10
    harness.publish("a", None)
    harness.publish("a", backend_of("a"))
    harness.probe("a", answer("other"), seconds=1.0)
    assert harness.state() is State.UNKNOWN


def test_a_registration_voids_the_failures_before_it() -> None:
    harness = Harness("a")
    harness.rounds([answer("a"), REFUSED, REFUSED])
    harness.tracker.note_registration("a", moment=harness.moment)
    harness.probe("a", REFUSED, seconds=1.0)
    harness.rounds([REFUSED, REFUSED])
    assert harness.state() is State.UP
    harness.probe("a", REFUSED)
    assert harness.state() is State.DOWN


def test_a_backend_that_answers_now_and_then_after_a_goodbye_is_held_down() -> None:
    harness = Harness("a")
    for _ in range(3):
        assert harness.goodbye()  # to be probed at once
        harness.rounds([answer("a")])
        assert harness.state() is State.UP
        assert harness.tracker.history("a").is_leaving
        harness.rounds([REFUSED])
        assert harness.state() is State.DEREGISTERED
        assert not harness.tracker.history("a").is_leaving
        harness.ping()
    harness.goodbye()
    harness.probe("a", answer("a"))
    assert harness.state() is State.DEREGISTERED
    assert "held down" in str(harness.reason())


class VitalsMachine(RuleBasedStateMachine):
    """Any history of two backends (too few for the guard), against the rule in plain words."""

    @initialize()
    def start(self) -> None:
        self.harness = Harness("a", "b")
        self.failures = dict.fromkeys("ab", 0)
        self.pinged: dict[str, float] = {}
        self.goodbye_at: dict[str, bool] = dict.fromkeys("ab", False)
        self.doubted: dict[str, bool] = dict.fromkeys("ab", False)
        self.expected: dict[str, State] = dict.fromkeys("ab", State.UNKNOWN)
        self.falls = dict.fromkeys("ab", 0)

    @rule(seconds=st.sampled_from([1, 20, 61]))
    def wait(self, seconds: int) -> None:
        self.harness.moment += seconds

    @rule(name=st.sampled_from("ab"))
    def ping(self, name: str) -> None:
        self.harness.ping(name)
        self.pinged[name] = self.harness.moment
        self.doubted[name] = False
        if self.expected[name] is not State.WRONG_HUB:
            self.expected[name] = State.UP

    @rule(name=st.sampled_from("ab"))
    def is_answered(self, name: str) -> None:
        self.harness.probe(name, answer(name))
        self.failures[name] = 0
        if self.expected[name] is State.UP:
            self.doubted[name] = False
        self.expected[name] = State.UP

    @rule(name=st.sampled_from("ab"))
    def is_answered_by_another(self, name: str) -> None:
        self.harness.probe(name, answer("other"))
        self.failures[name] = 0
        self._fall(name, State.WRONG_HUB)

    @rule(name=st.sampled_from("ab"))
    def fails(self, name: str) -> None:
        self.harness.probe(name, REFUSED)
        self.failures[name] += 1
        state = self.expected[name]
        is_pinged = self.harness.moment - self.pinged.get(name, -1000) < POLICY.stale_after
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
        self.harness.goodbye(name)
        if self.expected[name] is not State.DEREGISTERED:
            self.doubted[name] = True
        self.expected[name] = State.DEREGISTERED

    @rule(name=st.sampled_from("ab"), host=st.sampled_from(["h", "elsewhere"]))
    def register_anew(self, name: str, host: str) -> None:
        moved = host != self.harness.backends[name].host
        self.harness.publish(name, backend_of(name, host=host))
        self.failures[name], self.doubted[name] = 0, False
        self.pinged.pop(name, None)
        self.expected[name] = State.UNKNOWN
        if moved:
            self.falls[name] = 0

    @rule()
    def sweep(self) -> None:
        self.harness.sweep()
        for name, pinged in [*self.pinged.items()]:
            silent = self.harness.moment - pinged >= POLICY.stale_after
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
            host = "h" if self.harness.backends[name].host != "h" else "elsewhere"
            self.register_anew(name, host)

    @invariant()
    def everyone_is_as_the_rule_says(self) -> None:
        for name, expected in self.expected.items():
            assert self.harness.state(name) is expected, name


TestVitals = pytest.mark.slow(VitalsMachine.TestCase)
