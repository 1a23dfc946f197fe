"""What the probes of one backend showed so far, and what follows from the next one.

Theory of operation. A backend that goes down again and again is held down. The first `FREE_FALLS`
times cost nothing. After that, a backend that answers again stays inactive until it has answered
for a while without a miss. This time doubles with each fall, up to `LONGEST_HOLD`. When the backend
has stayed up for `FORGOTTEN_AFTER`, counting starts again.

Source: manual/health.md, "Probes" and "False alarms".
"""

from __future__ import annotations

from math import inf

import msgspec

from plexus_registry.rules.backend import Backend, State
from plexus_registry.rules.states import (
    Answered,
    Sign,
    Unanswered,
    after_sign,
    is_answer_of,
    other_name,
)

FREE_FALLS = 2
"""After this many falls, a backend is not held down yet."""

FIRST_HOLD = 15.0
LONGEST_HOLD = 300.0
FORGOTTEN_AFTER = 600.0
"""All in seconds."""

SHAKEN = frozenset({State.DOWN, State.WRONG_HUB})
_HELD = SHAKEN | {State.DEREGISTERED}
"""The states in which a backend can be held down."""


class Damping:
    """How often one backend went down, and since when it answers again.

    Attributes:
        falls: How often it went down without a long time up in between.
    """

    __slots__ = ("_answers_since", "_up_since", "falls")

    def __init__(self) -> None:
        self.falls = 0
        self._answers_since: float | None = None
        self._up_since: float | None = None

    @property
    def hold_seconds(self) -> float:
        """The time for which it must answer without a miss before it counts as up again."""
        surplus = self.falls - FREE_FALLS
        if surplus <= 0:
            return 0.0
        return float(min(LONGEST_HOLD, FIRST_HOLD * 2.0 ** min(surplus - 1, 10)))

    def note_down(self, moment: float) -> None:
        """Record that it was up and is not any more."""
        if self._up_since is not None and moment - self._up_since >= FORGOTTEN_AFTER:
            self.falls = 0
        self.falls += 1
        self._up_since = None
        self._answers_since = None

    def note_up(self, moment: float) -> None:
        """Record that it is up."""
        if self._up_since is None:
            self._up_since = moment

    def note_answer(self, moment: float) -> None:
        """Record that it answered."""
        if self._answers_since is None:
            self._answers_since = moment

    def note_miss(self) -> None:
        """Record that it did not answer: the time for which it must answer starts again."""
        self._answers_since = None

    def remaining(self, moment: float) -> float:
        """Return for how many seconds more it is held down if it goes on answering."""
        if self._answers_since is None:
            return self.hold_seconds
        return max(0.0, self._answers_since + self.hold_seconds - moment)


class ProbeHistory:
    """What the probes of one address showed so far.

    Attributes:
        applies: Whether the backend can be probed.
        failures: How many probes in a row failed.
        has_lapsed: Whether so many failed that probes do not speak for it any more.
        failed_at: When the last failure was noted.
        is_leaving: Whether it said goodbye a moment ago, and may go on answering until it stops.
        has_stopped: Whether it answered after a goodbye, and then did not answer any more.
        refusals: How many times in a row it wanted a credential.
        valid_from: The outcomes of probes that began before this moment are void.
        damping: How often it went down.
    """

    __slots__ = (
        *("applies", "damping", "failed_at", "failures", "has_lapsed", "has_stopped"),
        *("is_leaving", "refusals", "valid_from"),
    )

    def __init__(self, moment: float = -inf) -> None:
        self.damping = Damping()
        self.start_over(moment)

    def start_over(self, moment: float) -> None:
        """Forget everything but how often it went down."""
        self.valid_from = moment
        self.applies = True
        self.failed_at = -inf
        self.failures = 0
        self.has_lapsed = False
        self.is_leaving = False
        self.has_stopped = False
        self.refusals = 0


def after_answer(
    probes: ProbeHistory, backend: Backend, outcome: Answered, *, now: int, moment: float
) -> Backend:
    """Return a backend as an answer leaves it; `now` is in Unix seconds, `moment` monotonic."""
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


def after_failure(
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
