"""Self-preservation: if most backends fail at once, the registry suspects its own network.

Theory of operation. For each backend that was up, the registry knows whether its latest probe
failed. If more than half of them fail, and at least three, the cause is probably on this side: no
backend is marked as down for `ROUNDS` rounds. If they still fail after that, they are really gone.
Marking then goes on, but only for a `SHARE` of the backends in each round. The suspicion ends when
half of them or fewer fail; after marking has gone on, when fewer than three do.
"""

from __future__ import annotations

LEAST = 3
"""The least number of failing backends: two on one machine may well stop together."""

ROUNDS = 5
"""The number of rounds in which no backend is marked as down."""

SHARE = 0.25
"""The share of backends that may be marked in each round after that; at least `LEAST` of them."""


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
        """Count a backend as it is now.

        Args:
            name: Its name.
            is_up: Whether it is up as far as its probes show.
            fails: Whether its latest probe failed.
            moment: Now, in seconds of a monotonic clock.
        """
        (self._up.add if is_up else self._up.discard)(name)
        (self._failing.add if is_up and fails else self._failing.discard)(name)
        if self._since is not None:
            if not self._has_cause(moment):
                self._since = None
        elif self._has_cause(moment):
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
        """Do not count a pause of this process; after a pause of a round or more, start again.

        Args:
            pause: The seconds in which this process did not run.
            moment: When the pause ended.
        """
        if self._since is not None:
            is_long = pause >= self._round_seconds
            self._since = moment if is_long else min(moment, self._since + pause)
