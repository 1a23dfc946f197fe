"""Who is to be probed next.

Theory of operation. Names stand in a heap by the moment at which each is due. A new moment makes
the former one void, and what is void is passed over when it comes up. Rounds are spread: a name
is first due soon, for the second time after its own part of the interval, and from then on once
in every interval, a little early each time by chance, so that names do not march in step and none
waits longer than the interval.
"""

from __future__ import annotations

from heapq import heappop, heappush

JITTER = 0.02
"""Which part of the interval chance may take off."""

_GOLDEN = 0.6180339887498949
"""Its multiples are spread evenly between whole numbers, however many there are."""


class Schedule:
    """When each name is due."""

    def __init__(self, *, interval: float) -> None:
        self._interval = interval
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._first_parts: dict[str, float] = {}
        self._added = 0

    def add(self, name: str, due: float) -> None:
        """Have a name be due for the first time, or before its time."""
        known = self._due.get(name)
        if known is not None and known <= due:
            return
        if known is None:
            self._spread(name)
        self._put(name, due)

    def next_due(self) -> float | None:
        """Give the moment at which the next name is due; None where there is no name."""
        heap = self._heap
        while heap:
            due, name = heap[0]
            if self._due.get(name) == due:
                return due
            heappop(heap)
        return None

    def take(self, moment: float) -> tuple[str, float] | None:
        """Take the name that is due next; it has no place until it is put back or added.

        Args:
            moment: Now.

        Returns:
            The name, and when it was due; None where none is due yet.
        """
        due = self.next_due()
        if due is None or due > moment:
            return None
        _, name = heappop(self._heap)
        del self._due[name]
        return name, due

    def forget(self, name: str) -> None:
        """Forget a name that was taken and is not put back."""
        self._first_parts.pop(name, None)

    def put_back(
        self, name: str, turn: float, *, due: float, chance: float, factor: float = 1.0
    ) -> None:
        """Have a name be due again, an interval after the last time.

        Args:
            name: The name; where it was added meanwhile, that holds.
            turn: When it had its turn.
            due: When it should have had it. If that was long ago, the process was stopped, and
                everyone had a turn at once: they are spread again.
            chance: From 0 to 1.
            factor: How many intervals the name waits instead of one.
        """
        if turn - due > self._interval / 2:
            self._spread(name)
        part = self._first_parts.pop(name, 1.0)
        if name not in self._due:
            self._put(name, turn + self._interval * part * factor * (1 - JITTER * chance))

    def _spread(self, name: str) -> None:
        self._added += 1
        self._first_parts[name] = self._added * _GOLDEN % 1.0

    def _put(self, name: str, due: float) -> None:
        self._due[name] = due
        heappush(self._heap, (due, name))
