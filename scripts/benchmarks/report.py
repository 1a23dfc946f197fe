"""What a run found: rows of a table, most of which compare two things."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEADERS = (
    *("scenario", "measured", "value", "unit", "p99 ms", "against", "its value"),
    *("ratio", "rounds", "reach", ""),
)
ALIGNED = ("left", "left", "right", "left", "right", "left", *["right"] * 4, "left")

FULL = 0.95

Row = tuple[str, ...]
"""The cells of a line, from `measured` on."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round found.

    Where load was driven, also the 99th percentile of its calls, and how busy the load itself was,
    as a share of its core: at 1, it and not the server sets the pace.
    """

    value: float
    p99_ms: float | None = None
    busy: float = 0.0


def state(what: str, value: float, unit: str) -> Row:
    """Make the row of something that is compared with nothing."""
    return (what, _number(value), unit, *[""] * 7)


def compare(
    what: str,
    samples: Sequence[Sample],
    unit: str,
    against: str,
    bases: Sequence[Sample] | float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """Compare two things that were measured in alternation, or one with a fixed number.

    All values are medians over the rounds. The ratio is the median of the ratios of the rounds,
    not the ratio of the medians: the two sides of a round were measured back to back, so what the
    machine did to one it did to the other. A wide range over the rounds says: measure again.
    """
    if isinstance(bases, int | float):
        bases = [Sample(bases)] * len(samples)
    ratios = [one.value / base.value for one, base in zip(samples, bases, strict=True)]
    ratio = statistics.median(ratios)
    p99s = [sample.p99_ms for sample in samples if sample.p99_ms is not None]
    reach = verdict = ""
    if at_least is not None:
        reach, verdict = f">= {at_least:g}", "PASS" if ratio >= at_least else "short"
    elif at_most is not None:
        reach, verdict = f"<= {at_most:g}", "PASS" if ratio <= at_most else "short"
    if max(statistics.median(one.busy for one in side) for side in (samples, bases)) > FULL:
        verdict += " (load at its limit)"
    value = statistics.median(sample.value for sample in samples)
    p99 = _number(statistics.median(p99s)) if p99s else ""
    base = statistics.median(base.value for base in bases)
    rounds = f"{_number(min(ratios))}-{_number(max(ratios))}"
    cells = (what, _number(value), unit, p99, against, _number(base), _number(ratio))
    return (*cells, rounds, reach, verdict)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
