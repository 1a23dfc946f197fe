"""What the probes of one backend showed, and what its next one makes of it.

Source: manual/health.md, "Probes" and "False alarms".
"""

from __future__ import annotations

from math import inf

import msgspec

from plexus_registry.health.damping import Damping
from plexus_registry.rules.backend import Backend, State
from plexus_registry.rules.probe_results import Answered, Unanswered, is_answer_of, other_name
from plexus_registry.rules.states import Sign, after_sign

SHAKEN = frozenset({State.DOWN, State.WRONG_HUB})
_HELD = SHAKEN | {State.DEREGISTERED}
"""From here, who fell too often lately has to answer for a while."""


class ProbeHistory:
    """What the probes of one address showed so far.

    Attributes:
        applies: Whether it can be probed.
        failures: How many in a row failed.
        has_lapsed: Whether so many failed that probes speak for it no more.
        is_doubted: Whether it said goodbye and answered all the same, a moment ago.
        failed_at: When the last failure was noted.
        is_stopping: Whether it answered after a goodbye, and then no more.
        refusals: How many times in a row it wanted a credential.
        valid_from: What a probe found that began before this moment says nothing any more.
        damping: How often it fell.
    """

    __slots__ = (
        *("applies", "damping", "failed_at", "failures", "has_lapsed", "is_doubted"),
        *("is_stopping", "refusals", "valid_from"),
    )

    def __init__(self, moment: float = -inf) -> None:
        self.damping = Damping()
        self.start_over(moment)

    def start_over(self, moment: float) -> None:
        """Take it for one that was not probed yet, but for its falls."""
        self.valid_from = moment
        self.applies = True
        self.failed_at = -inf
        self.failures = 0
        self.has_lapsed = False
        self.is_doubted = False
        self.is_stopping = False
        self.refusals = 0


def after_answer(
    probes: ProbeHistory, backend: Backend, outcome: Answered, *, now: int, moment: float
) -> Backend:
    """Say how a backend is after an answer; `now` is in Unix seconds, `moment` monotonic."""
    seen: dict[str, object] = {"last_probe": now, "latency_ms": outcome.latency_ms, "failures": 0}
    if not is_answer_of(backend, outcome):
        reason = other_name(backend, outcome)
        return after_sign(backend, Sign.OTHER_NAME, now=now, reason=reason, seen=seen)
    if backend.state in _HELD and (wait := probes.damping.wait(moment)) > 0:
        reason = (
            f"it answers again, but fell {probes.damping.falls} times lately:"
            f" it is held down for {wait:.0f} s more"
        )
        return after_sign(backend, None, now=now, reason=reason, seen=seen)
    if outcome.schema_hash is not None:
        seen["schema_hash"] = outcome.schema_hash
    if outcome.version is not None:
        backend = msgspec.structs.replace(backend, version=outcome.version)
    return after_sign(backend, Sign.ANSWER, now=now, seen=seen)


def after_failure(
    probes: ProbeHistory, backend: Backend, outcome: Unanswered, *, now: int, pings: bool
) -> Backend:
    """Say how a backend is after a failure that was counted; `pings` keep it active."""
    sign, reason = None, outcome.reason
    seen = {"last_probe": now, "failures": probes.failures}
    if probes.is_doubted:
        sign = Sign.FAREWELL
        probes.is_stopping = backend.state is State.UP
        reason = f"it said goodbye, and is gone: {reason}"
    elif probes.has_lapsed and not pings:
        sign = Sign.NO_ANSWER
        if probes.failures > 1:
            reason = f"{probes.failures} probes in a row failed, the last one: {reason}"
    return after_sign(backend, sign, now=now, reason=reason, seen=seen)
