"""The health of all backends in this run of the registry, and what new evidence changes.

Theory of operation. What survives a restart is in the backend's `health`. The tracker keeps the
rest, its evidence. It turns new evidence into a sign, which changes the state (`rules/states`). A
sign that could not be saved comes again with the next probe. Moments are seconds of a monotonic
clock, and `now` is in Unix seconds.

Source: manual/health.md, "States", "Probes" and "False alarms".
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import msgspec

from plexus_registry.health.evidence import Deadlines, ProbeHistory, SelfPreservation
from plexus_registry.rules.backend import Backend, State
from plexus_registry.rules.states import (
    Answered,
    Outcome,
    Sign,
    Unanswered,
    Unchecked,
    Untried,
    after_sign,
    is_answer_of,
    other_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

OVERTIME = 0.25
"""Seconds: a probe that exceeds its timeout by more shows that this process did not run."""

_SHAKEN = frozenset({State.DOWN, State.WRONG_HUB})
_HELD = _SHAKEN | {State.DEREGISTERED}
"""The states in which a backend can be held down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long evidence for a backend lasts.

    Attributes:
        stale_after: The seconds of silence after which pings do not speak for a backend any more.
        probe_interval: The seconds between two probes of one backend; 0 turns probing off.
        probe_failures: How many probes in a row must fail until they do not speak for it any more.
        probe_timeout: The seconds that a probe may take.
    """

    stale_after: float = 60.0
    probe_interval: float = 0.0
    probe_failures: int = 3
    probe_timeout: float = 2.0


class HealthTracker:
    """Weighs pings, probes and goodbyes of all backends.

    Attributes:
        probes: Whether backends are probed at all.
        deadlines: By when each backend must ping again.
    """

    def __init__(self, policy: Policy) -> None:
        self.probes = policy.probe_interval > 0
        self.deadlines = Deadlines(stale_after=policy.stale_after)
        self._policy = policy
        self._self_preservation = SelfPreservation(round_seconds=policy.probe_interval)
        self._histories: defaultdict[str, ProbeHistory] = defaultdict(ProbeHistory)

    @property
    def suspects_network(self) -> bool:
        """Whether so many backends fail that the registry suspects its own network."""
        return self._self_preservation.suspects_network

    # Changes.

    def note_change(
        self, name: str, before: Backend | None, after: Backend | None, *, moment: float
    ) -> bool:
        """Record which backend a name means before and after a commit.

        Returns:
            Whether to probe it at once, because it is new, moved, came back or said goodbye.
        """
        self.deadlines.note_change(name, before, after, moment=moment)
        if not self.probes:
            return False
        if before is not None and (after is None or before.address != after.address):
            self._histories.pop(name, None)
            self._self_preservation.count(name, is_up=False, fails=False, moment=moment)
            before = None
        if after is None:
            return False
        if before is None:
            self._histories[name] = ProbeHistory(moment)
            return True
        probes = self._histories[name]
        is_gone = after.state is State.DEREGISTERED is not before.state
        # Either somebody said goodbye now, or a failed probe confirmed an earlier goodbye.
        stopped, probes.has_stopped = is_gone and probes.has_stopped, False
        said_goodbye = is_gone and not stopped
        if after.health is None:
            probes = self._histories[name] = ProbeHistory(moment, probes.damping)
        if said_goodbye:
            probes.valid_from = moment
        if is_gone:
            probes.is_leaving = said_goodbye
        if stopped:
            probes.damping.note_down(moment)
        if after.state is State.UP:
            probes.damping.note_up(moment)
        elif after.state in _SHAKEN and before.state is State.UP:
            probes.damping.note_down(moment)
        self._count(after, probes, moment=moment)
        return after.health is None or said_goodbye

    def note_registration(self, name: str, *, moment: float) -> None:
        """Record that a backend was registered: earlier failures count no more."""
        if name in self._histories:
            self._histories[name] = ProbeHistory(moment, self._histories[name].damping)

    def note_pause(self, pause: float, *, moment: float) -> None:
        """Record that this process did not run for some seconds, and postpone all deadlines.

        The outcomes of probes that were running are void. Failures that were counted before stay.
        """
        self.deadlines.postpone(pause, moment=moment)
        self._self_preservation.postpone(pause, moment=moment)
        for probes in self._histories.values():
            probes.valid_from = moment

    def _count(self, backend: Backend, probes: ProbeHistory, *, moment: float) -> None:
        is_up = backend.state is State.UP and probes.applies and not probes.has_lapsed
        self._self_preservation.count(
            backend.name, is_up=is_up, fails=probes.failures > 0, moment=moment
        )

    # Pings.

    def note_ping(self, name: str, *, moment: float) -> None:
        """Record a ping."""
        self.deadlines.renew(name, moment=moment)
        self.history(name).is_leaving = False

    def silent_names(self, *, moment: float) -> Iterator[str]:
        """Iterate over the backends whose pings stopped, and for which no probe speaks."""
        return (name for name in self.deadlines.passed(moment=moment) if not self._answers(name))

    def after_silence(self, backend: Backend, *, now: int, moment: float) -> Backend:
        """Return a backend as silence leaves it; a ping in the meantime leaves it as it is."""
        name = backend.name
        if not self.deadlines.has_passed(name, moment=moment) or self._answers(name):
            return backend
        sign, reason = Sign.SILENCE, f"no ping for {self._policy.stale_after:g} s"
        probes = self.history(name)
        if probes.has_lapsed:
            sign = Sign.NO_ANSWER
            reason = f"{reason}, and {probes.failures} probes in a row failed"
        after = after_sign(backend, sign, now=now, reason=reason)
        return backend if after.state is backend.state else after

    def _answers(self, name: str) -> bool:
        """Whether probes speak for a backend: they do until enough of them have failed."""
        probes = self.history(name)
        return self.probes and probes.applies and not probes.has_lapsed

    # Probes.

    def history(self, name: str) -> ProbeHistory:
        """Return what the probes of a backend showed so far; an empty one if there were none."""
        return self._histories.get(name) or ProbeHistory()

    def note_probe(
        self, backend: Backend, outcome: Outcome, *, began: float, moment: float
    ) -> bool:
        """Record the outcome of a probe; `after_probe` returns what follows from it.

        Returns:
            Whether the outcome counts. It does not if the cause is on this machine, or if the
            backend said goodbye, was registered or failed another probe since this one began.
        """
        name = backend.name
        probes = self._histories[name]
        if began < probes.valid_from or isinstance(outcome, Untried):
            return False
        if isinstance(outcome, Unanswered):
            is_late = moment - began > self._policy.probe_timeout + OVERTIME
            # Two probes that ran at the same time are one failure.
            if is_late or began < probes.failed_at:
                return False
            probes.failed_at = moment
        probes.applies = not isinstance(outcome, Unchecked)
        is_refusal = isinstance(outcome, Unchecked) and outcome.wants_credential
        probes.refusals = probes.refusals + 1 if is_refusal else 0
        if isinstance(outcome, Unanswered):
            probes.failures += 1
            self._count(backend, probes, moment=moment)
            if probes.failures >= self._policy.probe_failures and not probes.has_lapsed:
                probes.has_lapsed = self._self_preservation.may_mark(name, moment=moment)
        else:
            probes.failures = 0
            probes.has_lapsed = False
        if isinstance(outcome, Answered) and is_answer_of(backend, outcome):
            probes.damping.note_answer(moment)
            # The first answer after a goodbye may come from a hub that is about to stop.
            probes.is_leaving = probes.is_leaving and backend.state is not State.UP
        else:
            probes.damping.note_miss()
        self._count(backend, probes, moment=moment)
        return True

    def after_probe(
        self, backend: Backend, outcome: Outcome, *, now: int, moment: float
    ) -> Backend:
        """Return a backend as a probe leaves it; `note_probe` must have counted the probe."""
        probes = self._histories.get(backend.name)
        if probes is None:  # it moved in the meantime
            return backend
        match outcome:
            case Answered():
                return _after_answer(probes, backend, outcome, now=now, moment=moment)
            case Unanswered():
                # While another hub answers at the address, pings do not count.
                pings = backend.is_active and self.deadlines.is_ahead(backend.name, moment=moment)
                return _after_failure(probes, backend, outcome, now=now, pings=pings)
            case Unchecked(reason=reason):
                seen = {"last_probe": now, "latency_ms": None, "failures": 0}
                return after_sign(backend, Sign.NO_CHECK, now=now, reason=reason, seen=seen)
            case Untried():
                return backend
            case _:
                assert_never(outcome)


def _after_answer(
    probes: ProbeHistory, backend: Backend, outcome: Answered, *, now: int, moment: float
) -> Backend:
    """Return a backend as an answer leaves it."""
    seen: dict[str, object] = {"last_probe": now, "latency_ms": outcome.latency_ms, "failures": 0}
    if not is_answer_of(backend, outcome):
        reason = other_name(backend, outcome)
        return after_sign(backend, Sign.OTHER_NAME, now=now, reason=reason, seen=seen)
    if backend.state in _HELD and (seconds := probes.damping.remaining(moment)) > 0:
        reason = (
            f"it answers again, but went down {probes.damping.falls} times lately:"
            f" it is held down for {seconds:.0f} s more"
        )
        return after_sign(backend, None, now=now, reason=reason, seen=seen)
    if outcome.schema_hash is not None:
        seen["schema_hash"] = outcome.schema_hash
    if outcome.version is not None:
        backend = msgspec.structs.replace(backend, version=outcome.version)
    return after_sign(backend, Sign.ANSWER, now=now, seen=seen)


def _after_failure(
    probes: ProbeHistory, backend: Backend, outcome: Unanswered, *, now: int, pings: bool
) -> Backend:
    """Return a backend as a counted failure leaves it; one that `pings` stays active."""
    sign, reason = None, outcome.reason
    seen = {"last_probe": now, "failures": probes.failures}
    if probes.is_leaving:
        sign = Sign.FAREWELL
        probes.has_stopped = backend.state is State.UP
        reason = f"it said goodbye, and is gone: {reason}"
    elif probes.has_lapsed and not pings:
        sign = Sign.NO_ANSWER
        if probes.failures > 1:
            reason = f"{probes.failures} probes in a row failed, the last one: {reason}"
    return after_sign(backend, sign, now=now, reason=reason, seen=seen)
