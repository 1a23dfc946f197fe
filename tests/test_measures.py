"""Counting: the buckets of a histogram, and the cost of one request."""

from __future__ import annotations

import timeit

from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.measures import Histogram, Requests


@given(st.lists(st.floats(0, 10)))
def test_a_value_is_in_the_first_bucket_that_it_fits_in(values: list[float]) -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in values:
        histogram.note(value)
    naive = [
        sum(low < v <= high for v in values) for low, high in ((-1, 1), (1, 2), (2, 5), (5, 99))
    ]
    assert histogram.counts == naive
    assert abs(histogram.total - sum(values)) < 1e-6


def test_counting_a_request_is_cheap() -> None:
    """It costs below a microsecond on a quiet machine; a busy one may take a few times that."""
    requests = Requests()
    requests.note("registry.get", "ok", 0.001)
    runs = timeit.repeat(
        lambda: requests.note("registry.get", "ok", 0.001), number=2_000, repeat=20
    )
    assert min(runs) / 2_000 < 5e-6
    assert requests.outcomes["registry.get", "ok"] == requests.seconds["registry.get"].counts[3]
