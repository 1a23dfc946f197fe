"""All that is remembered of the backends' lives, and what new evidence makes of them.

Theory of operation. What outlives the process is in the backend's `health`; here is the rest: until
when pings speak for a backend, what its last probes showed, how often it fell. A result of a
probe is weighed against that and becomes a sign, and the sign changes the state (`health`).
Weighing is level-triggered: a sign that could not be saved is given again at the next probe.
Moments are seconds of a monotonic clock, `now` is in Unix seconds.

Source: manual/health.md, "States" and "False alarms".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from plexus_registry.health.deadlines import Deadlines
from plexus_registry.health.probe_history import SHAKEN, ProbeHistory, after_answer, after_failure
from plexus_registry.health.self_preservation import SelfPreservation
from plexus_registry.rules.backend import Backend, State
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
    from collections.abc import Iterator

OVERTIME = 0.25
"""A probe that took so many seconds more than it may shows that this process did not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When evidence lapses.

    Attributes:
        stale_after: Seconds of silence after which pings speak for a backend no more.
        probe_interval: Seconds between two probes of one backend; 0 where none is probed.
        probe_failures: How many probes in a row must fail until probes speak for it no more.
        probe_timeout: Seconds that a probe may take.
    """

    stale_after: float = 60.0
    probe_interval: float = 0.0
    probe_failures: int = 3
    probe_timeout: float = 2.0

    @property
    def probes(self) -> bool:
        """Whether backends are probed at all."""
        return self.probe_interval > 0


class HealthTracker:
    """The memory of everybody's health, in one run of the registry."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._deadlines = Deadlines(stale_after=policy.stale_after)
        self._self_preservation = SelfPreservation(round_seconds=policy.probe_interval)
        self._probes: dict[str, ProbeHistory] = {}

    @property
    def is_suspicious(self) -> bool:
        """Whether so many fail that the registry suspects its own network."""
        return self._self_preservation.is_raised

    def _probes_of(self, name: str) -> ProbeHistory:
        probes = self._probes.get(name)
        if probes is None:
            probes = self._probes[name] = ProbeHistory()
        return probes

    # What names mean.

    def follow(
        self, name: str, before: Backend | None, after: Backend | None, *, moment: float
    ) -> bool:
        """Take note of what a name means now, after a commit.

        Returns:
            Whether it should be probed at once: it is new, elsewhere, revived, or said goodbye.
        """
        self._deadlines.follow(name, before, after, moment=moment)
        if not self.policy.probes:
            return False
        if after is None or before is None or before.address != after.address:
            self._probes.pop(name, None)
            if after is not None:
                self._probes[name] = ProbeHistory(moment)
            self._self_preservation.count(name, is_up=False, fails=False, moment=moment)
            return after is not None
        probes = self._probes_of(name)
        is_gone = after.state is State.DEREGISTERED is not before.state
        stopped, probes.is_stopping = is_gone and probes.is_stopping, False
        said_goodbye = is_gone and not stopped
        if after.health is None:
            probes.start_over(moment)
        if said_goodbye:
            probes.valid_from = moment
        if is_gone:
            probes.is_doubted = said_goodbye
        if stopped:
            probes.damping.fell(moment)
        if after.state is State.UP:
            probes.damping.rose(moment)
        elif after.state in SHAKEN and before.state is State.UP:
            probes.damping.fell(moment)
        self._count(after, probes, moment=moment)
        return after.health is None or said_goodbye

    def register(self, name: str, *, moment: float) -> None:
        """Take note that somebody registered a backend: whatever failed before says nothing."""
        probes = self._probes.get(name)
        if probes is not None:
            probes.start_over(moment)

    def forgive(self, pause: float, *, moment: float) -> None:
        """Give everyone back the seconds in which this process did not run.

        What probes find that were under way is void; failures that were counted before stay.
        """
        self._deadlines.postpone(pause, moment=moment)
        self._self_preservation.postpone(pause, moment=moment)
        for probes in self._probes.values():
            probes.valid_from = moment

    def _count(self, backend: Backend, probes: ProbeHistory, *, moment: float) -> None:
        is_up = backend.state is State.UP and probes.applies and not probes.has_lapsed
        self._self_preservation.count(
            backend.name, is_up=is_up, fails=probes.failures > 0, moment=moment
        )

    # Pings.

    def renew(self, name: str, *, moment: float) -> None:
        """Take note of a ping."""
        self._deadlines.renew(name, moment=moment)
        probes = self._probes.get(name)
        if probes is not None:
            probes.is_doubted = False

    def excuse(self, began: float, *, moment: float) -> None:
        """Give those whose term ended since a commit began, until now, time to be heard."""
        self._deadlines.excuse(began, moment=moment)

    def silent(self, *, moment: float) -> Iterator[str]:
        """Name the backends that no ping speaks for any more, and no probe either."""
        return (name for name in self._deadlines.over(moment=moment) if not self._answers(name))

    def after_silence(self, backend: Backend, *, now: int, moment: float) -> Backend:
        """Say how a backend is that may be silent too long; a ping may have come meanwhile."""
        name = backend.name
        if not self._deadlines.is_over(name, moment=moment) or self._answers(name):
            return backend
        probes = self._probes.get(name)
        reason = f"no ping for {self.policy.stale_after:g} s"
        sign = Sign.SILENCE
        if probes is not None and probes.has_lapsed:
            sign = Sign.NO_ANSWER
            reason = f"{reason}, and {probes.failures} probes in a row failed"
        after = after_sign(backend, sign, now=now, reason=reason)
        return backend if after.state is backend.state else after

    def _answers(self, name: str) -> bool:
        """Whether probes speak for a backend: they do until enough of them failed."""
        probes = self._probes.get(name)
        if probes is None:
            return self.policy.probes
        return probes.applies and not probes.has_lapsed

    # Probes.

    def refusals(self, name: str) -> int:
        """Count how many times in a row a backend wanted a credential."""
        probes = self._probes.get(name)
        return 0 if probes is None else probes.refusals

    def is_doubted(self, name: str) -> bool:
        """Whether a backend said goodbye and answered all the same, a moment ago."""
        probes = self._probes.get(name)
        return probes is not None and probes.is_doubted

    def note_probe(
        self, backend: Backend, outcome: Outcome, *, began: float, moment: float
    ) -> bool:
        """Take note of what a probe found; `after_probe` says what follows from it.

        Returns:
            Whether it says anything: not where the hub was not even asked, the backend said
            goodbye, registered or was given a pause back since the probe began, nor where another
            one failed meanwhile, or this process did not run.
        """
        name = backend.name
        probes = self._probes_of(name)
        if began < probes.valid_from or isinstance(outcome, Untried):
            return False
        if isinstance(outcome, Unanswered):
            is_late = moment - began > self.policy.probe_timeout + OVERTIME
            # Failures in a row are one after the other.
            if is_late or began < probes.failed_at:
                return False
            probes.failed_at = moment
        probes.applies = not isinstance(outcome, Unchecked)
        is_refusal = isinstance(outcome, Unchecked) and outcome.wants_credential
        probes.refusals = probes.refusals + 1 if is_refusal else 0
        if isinstance(outcome, Unanswered):
            probes.failures += 1
            self._count(backend, probes, moment=moment)
            if probes.failures >= self.policy.probe_failures and not probes.has_lapsed:
                probes.has_lapsed = self._self_preservation.may_mark(name, moment=moment)
        else:
            probes.failures = 0
            probes.has_lapsed = False
        if isinstance(outcome, Answered) and is_answer_of(backend, outcome):
            probes.damping.answered(moment)
            # The first answer after a goodbye may come from a hub that is about to stop.
            probes.is_doubted = probes.is_doubted and backend.state is not State.UP
        else:
            probes.damping.missed()
        self._count(backend, probes, moment=moment)
        return True

    def after_probe(
        self, backend: Backend, outcome: Outcome, *, now: int, moment: float
    ) -> Backend:
        """Say how a backend is after a probe that was noted.

        Args:
            backend: As it was so far.
            outcome: What the probe found.
            now: Unix seconds.
            moment: Seconds of the monotonic clock.
        """
        probes = self._probes.get(backend.name)
        if probes is None:  # it moved since
            return backend
        match outcome:
            case Answered():
                return after_answer(probes, backend, outcome, now=now, moment=moment)
            case Unanswered():
                # A ping to the address of another hub speaks for nobody.
                pings = backend.is_active and self._deadlines.holds(backend.name, moment=moment)
                return after_failure(probes, backend, outcome, now=now, pings=pings)
            case Unchecked(reason=reason):
                return after_sign(
                    backend,
                    Sign.NO_CHECK,
                    now=now,
                    reason=reason,
                    seen={"last_probe": now, "latency_ms": None, "failures": 0},
                )
            case Untried():
                return backend
            case _:
                assert_never(outcome)
