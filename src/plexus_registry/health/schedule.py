"""The order in which backends are probed.

Theory of operation. Names are in a heap, ordered by the moment when each is due. When a name gets a
new moment, its older entry in the heap becomes void and is skipped later. Probes are spread over
the interval: a name is due for the first time soon, for the second time after a part of the
interval that is its own, and from then on once in every interval. Chance makes each probe a little
earlier, so that the names do not stay in step and none waits longer than the interval.
"""

from __future__ import annotations

from heapq import heappop, heappush

JITTER = 0.02
"""The largest part of the interval by which chance makes a probe earlier."""

_GOLDEN = 0.6180339887498949
"""The fractional parts of its multiples are spread evenly, however many there are."""


class Schedule:
    """The moment when each name is due."""

    def __init__(self, *, interval: float) -> None:
        self._interval = interval
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._first_parts: dict[str, float] = {}
        self._added = 0

    def add(self, name: str, due: float) -> None:
        """Add a name, or make it due earlier."""
        known = self._due.get(name)
        if known is not None and known <= due:
            return
        if known is None:
            self._spread(name)
        self._put(name, due)

    def next_due(self) -> float | None:
        """Return the moment when the next name is due; None if there are no names."""
        heap = self._heap
        while heap:
            due, name = heap[0]
            if self._due.get(name) == due:
                return due
            heappop(heap)
        return None

    def take(self, moment: float) -> tuple[str, float] | None:
        """Remove the name that is due next, until it is put back or added again.

        Args:
            moment: Now.

        Returns:
            The name, and when it was due; None if no name is due yet.
        """
        due = self.next_due()
        if due is None or due > moment:
            return None
        _, name = heappop(self._heap)
        del self._due[name]
        return name, due

    def forget(self, name: str) -> None:
        """Forget a name that was taken and will not be put back."""
        self._first_parts.pop(name, None)

    def put_back(
        self, name: str, taken: float, *, due: float, chance: float, factor: float = 1.0
    ) -> None:
        """Make a name due again, one interval after it was taken.

        Args:
            name: The name; if it was added again in the meantime, nothing changes.
            taken: When it was taken.
            due: When it was due. If that was long before, the process was stopped and all names
                were taken at once: they are spread over the interval again.
            chance: A random number from 0 to 1.
            factor: How many intervals to wait instead of one.
        """
        if taken - due > self._interval / 2:
            self._spread(name)
        part = self._first_parts.pop(name, 1.0)
        if name not in self._due:
            self._put(name, taken + self._interval * part * factor * (1 - JITTER * chance))

    def _spread(self, name: str) -> None:
        self._added += 1
        self._first_parts[name] = self._added * _GOLDEN % 1.0

    def _put(self, name: str, due: float) -> None:
        self._due[name] = due
        heappush(self._heap, (due, name))
