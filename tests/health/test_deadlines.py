"""Who is silent for too long: terms, renewals and pauses. Source: manual/health.md, "Silence"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plexus_registry.health.evidence import GRACE, LONG_COMMIT, Deadlines
from tests import strategies as sts

if TYPE_CHECKING:
    from plexus_registry.rules.backend import Backend

TERM = 60.0

moments = st.integers(0, 1000).map(float)
pauses = st.integers(0, 200).map(float)


def at_address(backend: Backend, host: str) -> Backend:
    return msgspec.structs.replace(backend, host=host)


@given(st.lists(st.tuples(sts.backends(name="a", pings=False), moments)), moments)
def test_a_backend_that_never_pinged_never_becomes_stale(
    history: list[tuple[Backend, float]], later: float
) -> None:
    deadlines = Deadlines(stale_after=TERM)
    before = None
    for backend, moment in history:
        deadlines.note_change("a", before, backend, moment=moment)
        before = backend
    assert not deadlines.has_passed("a", moment=later + 10**9)
    assert list(deadlines.passed(moment=later + 10**9)) == []


@given(moments, st.lists(moments))
def test_a_ping_renews_the_deadline(moment: float, earlier: list[float]) -> None:
    deadlines = Deadlines(stale_after=TERM)
    for each in (*sorted(earlier), moment):
        deadlines.renew("a", moment=each)
    assert not deadlines.has_passed("a", moment=moment + TERM - 0.5)
    assert deadlines.has_passed("a", moment=moment + TERM)


@given(sts.backends(name="a", pings=True, is_active=True), moments, pauses)
def test_a_change_of_the_same_backend_keeps_the_deadline(
    backend: Backend, moment: float, passed: float
) -> None:
    deadlines = Deadlines(stale_after=TERM)
    deadlines.note_change("a", None, backend, moment=moment)
    renamed = msgspec.structs.replace(backend, description="new", updated_at=9999)
    deadlines.note_change("a", backend, renamed, moment=moment + passed)
    assert deadlines.has_passed("a", moment=moment + TERM)


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"port": 2}, {"protocol": "other"}])
@given(backend=sts.backends(name="a", pings=True, is_active=True), moment=moments, passed=pauses)
def test_a_backend_at_a_new_address_gets_a_new_deadline(
    change: dict[str, object], backend: Backend, moment: float, passed: float
) -> None:
    deadlines = Deadlines(stale_after=TERM)
    deadlines.note_change("a", None, backend, moment=moment)
    moved = msgspec.structs.replace(backend, **change)
    deadlines.note_change("a", backend, moved, moment=moment + passed)
    assert not deadlines.has_passed("a", moment=moment + passed + TERM - 0.5)
    assert deadlines.has_passed("a", moment=moment + passed + TERM)


@given(sts.backends(name="a", pings=True, is_active=True), moments)
def test_a_backend_that_is_gone_or_inactive_has_no_deadline(
    backend: Backend, moment: float
) -> None:
    inactive = msgspec.structs.replace(backend, is_active=False)
    for after in (None, inactive):
        deadlines = Deadlines(stale_after=TERM)
        deadlines.note_change("a", None, backend, moment=moment)
        deadlines.note_change("a", backend, after, moment=moment)
        assert not deadlines.has_passed("a", moment=moment + 10**9)
        deadlines.note_change("a", after, backend, moment=moment + 30)
        assert not deadlines.has_passed("a", moment=moment + 30 + TERM - 0.5)
        assert deadlines.has_passed("a", moment=moment + 30 + TERM)


@given(moments, pauses, pauses)
def test_a_pause_never_shortens_the_time_or_makes_it_longer_than_the_full_one(
    moment: float, passed: float, pause: float
) -> None:
    deadlines = Deadlines(stale_after=TERM)
    deadlines.renew("a", moment=moment)
    now = moment + passed
    deadlines.postpone(pause, moment=now)
    expected = min(moment + TERM + pause, now + TERM)
    assert expected >= moment + TERM
    assert not deadlines.has_passed("a", moment=expected - 0.5)
    assert deadlines.has_passed("a", moment=expected)


@dataclass
class Heard:
    """What the naive model keeps of one backend: when it was heard, and the pauses since."""

    moment: float
    paused: float = 0.0


@given(st.floats(0, 200), st.floats(0, 200))
def test_a_deadline_that_passes_in_a_long_commit_is_extended_once(
    began: float, seconds: float
) -> None:
    deadlines = Deadlines(stale_after=TERM)
    deadlines.renew("a", moment=0)
    ended = began + seconds
    deadlines.extend(began, moment=ended)
    is_extended = seconds > LONG_COMMIT and began <= TERM <= ended + GRACE
    assert deadlines.has_passed("a", moment=TERM) is not (is_extended and ended + GRACE > TERM)
    assert deadlines.has_passed("a", moment=max(TERM, ended + GRACE))
    if is_extended:
        deadlines.extend(ended, moment=ended + 10)
        assert deadlines.has_passed("a", moment=ended + GRACE)
    deadlines.renew("a", moment=ended)
    deadlines.extend(ended, moment=ended + TERM)
    assert not deadlines.has_passed("a", moment=ended + TERM)


class DeadlinesMachine(RuleBasedStateMachine):
    """Any history of three names, against one list of what was heard when."""

    @initialize()
    def start(self) -> None:
        self.deadlines = Deadlines(stale_after=TERM)
        self.now = 0.0
        self.meant: dict[str, Backend] = {}
        self.heard: dict[str, Heard] = {}

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(seconds=st.integers(0, 100))
    def pause(self, seconds: int) -> None:
        self.now += seconds
        self.deadlines.postpone(seconds, moment=self.now)
        for heard in self.heard.values():
            # Of a pause counts only what leaves no more than a full term from now on.
            heard.paused = min(heard.paused + seconds, self.now - heard.moment)

    @rule(backend=sts.backends())
    def publish(self, backend: Backend) -> None:
        name = backend.name
        before = self.meant.get(name)
        self.deadlines.note_change(name, before, backend, moment=self.now)
        self.meant[name] = backend
        if not backend.is_active or backend.last_seen is None:
            self.heard.pop(name, None)
        elif before is None or name not in self.heard or before.address != backend.address:
            self.heard[name] = Heard(self.now)

    @rule(name=sts.names())
    def remove(self, name: str) -> None:
        self.deadlines.note_change(name, self.meant.pop(name, None), None, moment=self.now)
        self.heard.pop(name, None)

    @rule(name=sts.names())
    def ping(self, name: str) -> None:
        if name in self.meant:
            self.deadlines.renew(name, moment=self.now)
            self.heard[name] = Heard(self.now)

    @invariant()
    def the_silent_are_those_of_the_model(self) -> None:
        if not hasattr(self, "heard"):
            return
        for later in (0.0, 1.0, TERM - 1, TERM):
            silent = {
                name
                for name, heard in self.heard.items()
                if self.now + later - heard.moment - heard.paused >= TERM
            }
            assert set(self.deadlines.passed(moment=self.now + later)) == silent
            over = {n for n in sts.NAMES if self.deadlines.has_passed(n, moment=self.now + later)}
            assert over == silent


TestDeadlines = pytest.mark.slow(DeadlinesMachine.TestCase)
