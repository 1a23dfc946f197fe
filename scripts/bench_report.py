"""What a run found: figures, a table for people, JSON for everything else."""

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The ratio that a figure is meant to reach."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, ratio: float) -> bool:
        """Tell whether a ratio is within reach."""
        if self.at_least is not None and ratio < self.at_least:
            return False
        return self.at_most is None or ratio <= self.at_most

    def __str__(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured thing, and where it has a baseline, its ratio to it.

    Attributes:
        value: Median over the rounds, in `unit`.
        base: The same for `against`.
        ratio: Median of the ratios of the rounds, not ratio of the medians: the two sides of a
            round were measured back to back, so what the machine did to one it did to the other.
        spread: Smallest and largest ratio of a round; a wide one says: measure again.
        p50_ms: Median time of a call where load was driven, milliseconds.
        p99_ms: The same at the 99th percentile.
    """

    scenario: str
    what: str
    value: float
    unit: str
    against: str = ""
    base: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    reach: Reach | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None

    @property
    def verdict(self) -> str:
        """Say PASS or short where there is something to reach."""
        if self.reach is None or self.ratio is None:
            return ""
        return "PASS" if self.reach.holds(self.ratio) else "short"


def compare(
    scenario: str,
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    against: str,
    bases: Sequence[float],
    reach: Reach | None = None,
    p50_ms: float | None = None,
    p99_ms: float | None = None,
) -> Figure:
    """Make the figure of two things measured in alternation, a value each a round."""
    ratios = [value / base for value, base in zip(values, bases, strict=True)]
    return Figure(
        scenario=scenario,
        what=what,
        value=statistics.median(values),
        unit=unit,
        against=against,
        base=statistics.median(bases),
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        reach=reach,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
    )


def format_table(figures: Sequence[Figure]) -> str:
    """Lay the figures out, a line each."""
    headers = ("", "measured", "value", "unit", "p99 ms", "against", "its value", "ratio", "rounds")
    rows = [
        (
            figure.scenario,
            figure.what,
            _number(figure.value),
            figure.unit,
            _number(figure.p99_ms),
            figure.against,
            _number(figure.base),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            "" if figure.spread is None else "{:.2f}-{:.2f}".format(*figure.spread),
            "" if figure.reach is None else str(figure.reach),
            figure.verdict,
        )
        for figure in figures
    ]
    aligned = ("left", "left", "right", "left", "right", "left", *["right"] * 4, "left")
    return tabulate(
        rows, (*headers, "reach", ""), colalign=aligned, disable_numparse=True, tablefmt="simple"
    )


def write_json(
    path: Path, figures: Sequence[Figure], setting: dict[str, object], failures: dict[str, str]
) -> None:
    """Write everything that the table shows, and the setting, as one JSON object."""
    machine = {
        "system": platform.platform(),
        "processor": platform.machine(),
        "python": sys.version.split()[0],
    }
    report = {
        "machine": machine,
        "setting": setting,
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in figures],
        "failures": failures,
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
