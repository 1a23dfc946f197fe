"""Whether so many fail at once that the registry had better suspect its own network.

Theory of operation. Of each backend that was up it is known whether its latest probe failed.
Where that is so for more than half of them, and for three at least, the fault is more likely
here than there: nobody is marked down for `ROUNDS` rounds. Should it still be so after that, the
backends are gone indeed, and marking goes on, but only `SHARE` of them in a round. It ends when
no more than half fail; once marking goes on, when fewer than three do.
"""

from __future__ import annotations

LEAST = 3
"""So many must fail; two that run on one machine may well die together."""

ROUNDS = 5
"""For how many rounds nobody is marked down."""

SHARE = 0.25
"""Which part of those that were up may be marked down in a round, `LEAST` at any rate."""


class SelfPreservation:
    """Counts who was up and fails now, and says whether anybody may be marked down."""

    def __init__(self, *, round_seconds: float) -> None:
        self._round_seconds = round_seconds
        self._up: set[str] = set()
        self._failing: set[str] = set()
        self._since: float | None = None
        self._were_up = 0
        self._round_end = 0.0
        self._marked: set[str] = set()

    @property
    def is_raised(self) -> bool:
        """Whether the registry suspects its own network."""
        return self._since is not None

    def count(self, name: str, *, is_up: bool, fails: bool, moment: float) -> None:
        """Take note of how a backend is.

        Args:
            name: Its name.
            is_up: Whether it is up as far as its probes tell.
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
        # Once marking goes on, those that are marked are no reason to mark the rest in one go.
        return self._marks_again(moment) or 2 * len(self._failing) > len(self._up)

    def _marks_again(self, moment: float) -> bool:
        return self._since is not None and moment >= self._since + ROUNDS * self._round_seconds

    def may_mark(self, name: str, *, moment: float) -> bool:
        """Whether a backend may be marked down now; who may counts for this round."""
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
        """Give back a pause of this process; after one of a round or more, rounds count anew.

        Args:
            pause: How many seconds this process did not run.
            moment: When the pause ended.
        """
        if self._since is not None:
            is_long = pause >= self._round_seconds
            self._since = moment if is_long else min(moment, self._since + pause)
