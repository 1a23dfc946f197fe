"""Who is silent for too long.

A backend can go stale once it has pinged; each sign of life gives it a full term again.
Moments are seconds of a monotonic clock that the caller reads: a jump of the wall clock makes
nobody stale, and neither does a pause of the whole process, which `postpone` gives back. A request
that waits for the disk holds up the pings behind it on its connection: whose term ends during a
long commit gets a moment longer, so that what waits unread is heard before anyone is judged.

Source: manual/health.md, "Silence".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plexus_registry.rules.backend import Backend


LONG_COMMIT = 0.25
"""Seconds: a commit that takes longer may have held up a ping."""

GRACE = 1.0
"""Seconds after a long commit in which what waited unread is heard."""


class Deadlines:
    """Until when each pinging backend must give its next sign of life."""

    def __init__(self, *, stale_after: float) -> None:
        self._stale_after = stale_after
        self._deadlines: dict[str, float] = {}
        # Once between two pings is enough, or a slow disk would keep the dead alive.
        self._excused: set[str] = set()

    def renew(self, name: str, *, moment: float) -> None:
        """Give a backend a full term from a moment on."""
        self._deadlines[name] = moment + self._stale_after
        self._excused.discard(name)

    def follow(
        self, name: str, before: Backend | None, after: Backend | None, *, moment: float
    ) -> None:
        """Take note of what a name means now; a backend that is new to the name gets a full term.

        Args:
            name: The name.
            before: The effective backend that it meant so far, if any.
            after: The effective backend that it means now, if any.
            moment: Now.
        """
        if after is None or not after.is_active or not after.pings:
            self._deadlines.pop(name, None)
            self._excused.discard(name)
        elif name not in self._deadlines or before is None or before.address != after.address:
            self.renew(name, moment=moment)

    def postpone(self, seconds: float, *, moment: float) -> None:
        """Give back a pause in which nobody could be heard; no term gets longer than a full one."""
        latest = moment + self._stale_after
        for name, deadline in self._deadlines.items():
            self._deadlines[name] = min(deadline + seconds, latest)

    def excuse(self, began: float, *, moment: float) -> None:
        """Prolong the terms that ended during a long commit, each once between two pings.

        Args:
            began: When the commit began.
            moment: When it ended: now.
        """
        if moment - began <= LONG_COMMIT:
            return
        for name, deadline in self._deadlines.items():
            if began <= deadline <= moment + GRACE and name not in self._excused:
                self._deadlines[name] = moment + GRACE
                self._excused.add(name)

    def is_over(self, name: str, *, moment: float) -> bool:
        """Whether a backend's term is over."""
        deadline = self._deadlines.get(name)
        return deadline is not None and deadline <= moment

    def holds(self, name: str, *, moment: float) -> bool:
        """Whether a backend pings and its term is not over."""
        deadline = self._deadlines.get(name)
        return deadline is not None and deadline > moment

    def over(self, *, moment: float) -> Iterator[str]:
        """Name the backends whose term is over."""
        return (name for name, deadline in self._deadlines.items() if deadline <= moment)
