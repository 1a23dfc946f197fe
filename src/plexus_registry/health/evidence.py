"""What pings and probes show: by when a backend must ping, what probes found, and how many fail.

Theory of operation. A backend that pings has a deadline for its next ping (`Deadlines`); only such
a backend can become stale.

A backend that goes down again and again is held down (`Damping`). The first `FREE_FALLS` times cost
nothing. After that, a backend that answers again stays inactive until it has answered for a while
without a miss. This time doubles with each fall, up to `LONGEST_HOLD`. When the backend has stayed
up for `FORGOTTEN_AFTER`, counting starts again.

When most backends fail at once, the cause is probably on this side (`SelfPreservation`). Of the
backends that were up, more than half must fail, and at least `LEAST`. No backend is then marked as
down for `ROUNDS` rounds. If they still fail after that, they are really gone. Marking then goes on,
but only for a `SHARE` of the backends in each round. The suspicion ends when half of them or fewer
fail; after marking has gone on, when fewer than `LEAST` do.

Moments are seconds of a monotonic clock, so a change of the wall clock makes no backend stale.

Source: manual/health.md, "Silence" and "False alarms".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plexus_registry.rules.backend import Backend

LONG_COMMIT = 0.25
"""Seconds: a commit that takes longer may have delayed a ping."""

GRACE = 1.0
"""Seconds after a long commit in which delayed pings can be read."""

FREE_FALLS = 2
"""After this many falls, a backend is not held down yet."""

FIRST_HOLD = 15.0
LONGEST_HOLD = 300.0
FORGOTTEN_AFTER = 600.0
"""All in seconds."""

LEAST = 3
"""The least number of failing backends: two on one machine may well stop together."""

ROUNDS = 5
"""The number of rounds in which no backend is marked as down."""

SHARE = 0.25
"""The share of backends that may be marked in each round after that; at least `LEAST` of them."""


class Deadlines:
    """The moment by which each pinging backend must ping again."""

    def __init__(self, *, stale_after: float) -> None:
        self._stale_after = stale_after
        self._deadlines: dict[str, float] = {}
        # Once between two pings is enough, or a slow disk would keep dead backends active.
        self._extended: set[str] = set()

    def renew(self, name: str, *, moment: float) -> None:
        """Set the deadline of a backend to the full time after a moment."""
        self._deadlines[name] = moment + self._stale_after
        self._extended.discard(name)

    def note_change(
        self, name: str, before: Backend | None, after: Backend | None, *, moment: float
    ) -> None:
        """Start or end a deadline when a name means another backend than before."""
        if after is None or not after.is_active or not after.pings:
            self._deadlines.pop(name, None)
            self._extended.discard(name)
        elif name not in self._deadlines or before is None or before.address != after.address:
            self.renew(name, moment=moment)

    def postpone(self, seconds: float, *, moment: float) -> None:
        """Postpone all deadlines by a pause, but not beyond the full time after `moment`."""
        latest = moment + self._stale_after
        for name, deadline in self._deadlines.items():
            self._deadlines[name] = min(deadline + seconds, latest)

    def extend(self, began: float, moment: float) -> None:
        """Extend the deadlines that passed during a long commit, each once between two pings.

        A request that waits for the disk also delays the pings behind it on its connection. These
        are read before any backend is judged.
        """
        if moment - began <= LONG_COMMIT:
            return
        for name, deadline in self._deadlines.items():
            if began <= deadline <= moment + GRACE and name not in self._extended:
                self._deadlines[name] = moment + GRACE
                self._extended.add(name)

    def has_passed(self, name: str, *, moment: float) -> bool:
        """Whether a backend has a deadline, and it has passed."""
        deadline = self._deadlines.get(name)
        return deadline is not None and deadline <= moment

    def is_ahead(self, name: str, *, moment: float) -> bool:
        """Whether a backend has a deadline, and it has not passed."""
        deadline = self._deadlines.get(name)
        return deadline is not None and deadline > moment

    def passed(self, *, moment: float) -> Iterator[str]:
        """Iterate over the names whose deadline has passed."""
        return (name for name, deadline in self._deadlines.items() if deadline <= moment)


@dataclass(slots=True)
class Damping:
    """How often one backend went down without a long time up in between."""

    falls: int = 0
    _answers_since: float | None = None
    _up_since: float | None = None

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
        """Record that it did not answer."""
        self._answers_since = None

    def remaining(self, moment: float) -> float:
        """Return for how many seconds more it is held down if it goes on answering."""
        if self._answers_since is None:
            return self.hold_seconds
        return max(0.0, self._answers_since + self.hold_seconds - moment)


@dataclass(slots=True)
class ProbeHistory:
    """What the probes of one address showed so far.

    Attributes:
        valid_from: The outcomes of probes that began before this moment are void.
        damping: How often it went down.
        applies: Whether the backend can be probed.
        failures: How many probes in a row failed.
        failed_at: When the last failure was noted.
        has_lapsed: Whether so many failed that probes do not speak for it any more.
        is_leaving: Whether it said goodbye a moment ago, and may go on answering until it stops.
        has_stopped: Whether it answered after a goodbye, and then did not answer any more.
        refusals: How many times in a row it wanted a credential.
    """

    valid_from: float = -inf
    damping: Damping = field(default_factory=Damping)
    applies: bool = True
    failures: int = 0
    failed_at: float = -inf
    has_lapsed: bool = False
    is_leaving: bool = False
    has_stopped: bool = False
    refusals: int = 0


class SelfPreservation:
    """Counts the backends that fail, and decides whether one may be marked as down."""

    def __init__(self, *, round_seconds: float) -> None:
        self._round_seconds = round_seconds
        self._up: set[str] = set()
        self._failing: set[str] = set()
        self._since: float | None = None
        self._were_up = 0
        self._round_end = 0.0
        self._marked: set[str] = set()

    @property
    def suspects_network(self) -> bool:
        """Whether so many backends fail that the registry suspects its own network."""
        return self._since is not None

    def count(self, name: str, *, is_up: bool, fails: bool, moment: float) -> None:
        """Count a backend that is up as far as its probes show, or whose latest probe failed."""
        (self._up.add if is_up else self._up.discard)(name)
        (self._failing.add if is_up and fails else self._failing.discard)(name)
        if not self._has_cause(moment):
            self._since = None
        elif self._since is None:
            self._since = moment
            self._were_up = len(self._up)
            self._round_end = moment
            self._marked.clear()

    def _has_cause(self, moment: float) -> bool:
        if len(self._failing) < LEAST:
            return False
        # Backends that are marked are not up any more. Were half of the rest the limit, the
        # suspicion would end after a few rounds, and all others would be marked at once.
        return self._marks_again(moment) or 2 * len(self._failing) > len(self._up)

    def _marks_again(self, moment: float) -> bool:
        return self._since is not None and moment >= self._since + ROUNDS * self._round_seconds

    def may_mark(self, name: str, *, moment: float) -> bool:
        """Whether a backend may be marked as down now; if so, it counts for this round."""
        if self._since is None:
            return True
        if not self._marks_again(moment):
            return False
        if moment >= self._round_end:
            self._round_end = moment + self._round_seconds
            self._marked.clear()
        if len(self._marked) < max(LEAST, int(self._were_up * SHARE)):
            self._marked.add(name)
        return name in self._marked

    def postpone(self, pause: float, *, moment: float) -> None:
        """Do not count a pause of some seconds; after one of a round or more, start again."""
        if self._since is not None:
            is_long = pause >= self._round_seconds
            self._since = moment if is_long else min(moment, self._since + pause)
