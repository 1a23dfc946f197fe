"""Deadlines for the next ping of each backend that pings.

A backend can become stale only after it has pinged. Each ping renews its deadline. Moments are
seconds of a monotonic clock that the caller reads, so a change of the wall clock makes none stale.
`postpone` gives back a pause of the whole process. A request that waits for the disk also delays
the pings behind it on its connection. A deadline that passes during a long commit is therefore
extended a little, so that these pings are read before any backend is judged.

Source: manual/health.md, "Silence".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plexus_registry.rules.backend import Backend


LONG_COMMIT = 0.25
"""Seconds: a commit that takes longer may have delayed a ping."""

GRACE = 1.0
"""Seconds after a long commit in which delayed pings can be read."""


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
        """Start or end a deadline when a name changes its meaning.

        Args:
            name: The name.
            before: The effective backend until now, if any.
            after: The effective backend from now on, if any.
            moment: Now.
        """
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

    def extend(self, began: float, *, moment: float) -> None:
        """Extend the deadlines that passed during a long commit, each once between two pings.

        Args:
            began: When the commit began.
            moment: When it ended: now.
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
