"""Backends that come and go: the more often one fell lately, the longer it has to prove itself.

The first falls cost nothing. After that a backend that answers again stays inactive until it
answered for a while without a miss; the while doubles with each fall, up to `LONGEST`. One that
then stays up for `FORGOTTEN` starts anew.
"""

from __future__ import annotations

FREE_FALLS = 2
"""So many falls are followed by no hold-down."""

FIRST = 15.0
LONGEST = 300.0
FORGOTTEN = 600.0
"""All in seconds."""


class Damping:
    """How often one backend fell, and since when it answers again.

    Attributes:
        falls: How often it fell without a long time up in between.
    """

    __slots__ = ("_answers_since", "_up_since", "falls")

    def __init__(self) -> None:
        self.falls = 0
        self._answers_since: float | None = None
        self._up_since: float | None = None

    @property
    def hold_seconds(self) -> float:
        """For how long it must answer without a miss before it counts as up again."""
        surplus = self.falls - FREE_FALLS
        return 0.0 if surplus <= 0 else float(min(LONGEST, FIRST * 2.0 ** min(surplus - 1, 10)))

    def fell(self, moment: float) -> None:
        """Take note that it was up and is not any more."""
        if self._up_since is not None and moment - self._up_since >= FORGOTTEN:
            self.falls = 0
        self.falls += 1
        self._up_since = None
        self._answers_since = None

    def rose(self, moment: float) -> None:
        """Take note that it is up."""
        if self._up_since is None:
            self._up_since = moment

    def answered(self, moment: float) -> None:
        """Take note that it answers."""
        if self._answers_since is None:
            self._answers_since = moment

    def missed(self) -> None:
        """Take note that it did not answer: what it proved so far is void."""
        self._answers_since = None

    def wait(self, moment: float) -> float:
        """Say for how many seconds more it is held down; it answers since a while."""
        if self._answers_since is None:
            return self.hold_seconds
        return max(0.0, self._answers_since + self.hold_seconds - moment)
