"""What is counted for the metrics: plain numbers, which cost less than a microsecond a request."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    5.0,
)
GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
NO_METHOD = "unknown"
"""Stands for all methods that there are not, so that callers cannot make up metrics."""


class Histogram:
    """Values, counted in buckets.

    Attributes:
        bounds: The upper bound of each bucket but the last, which has none.
        counts: How many values are in each bucket.
        total: The sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Requests:
    """The JSON-RPC requests of all connections.

    Attributes:
        outcomes: How many there were, by method and outcome: `ok`, or the word of the error.
        seconds: How long they took, by method.
    """

    __slots__ = ("outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, Histogram] = {}

    def note(self, method: str, outcome: str, seconds: float) -> None:
        """Count a request."""
        self.outcomes[method, outcome] += 1
        histogram = self.seconds.get(method)
        if histogram is None:
            histogram = self.seconds[method] = Histogram()
        histogram.note(seconds)
