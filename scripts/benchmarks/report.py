"""What a run found: figures, a table for people, JSON for programs."""

import json
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

HEADERS = ("", "measured", "value", "unit", "p99 ms", "against", "its value", "ratio", "rounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured thing, and where it has a baseline, its ratio to it.

    Attributes:
        value: Median over the rounds, in `unit`.
        base: The same for `against`.
        ratio: Median of the ratios of the rounds, not ratio of the medians: the two sides of a
            round were measured back to back, so what the machine did to one it did to the other.
        spread: Smallest and largest ratio of a round; a wide one says: measure again.
        at_least: The ratio that it is meant to reach, where there is one.
        at_most: The ratio that it is not meant to pass, where there is one.
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
    at_least: float | None = None
    at_most: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None

    @property
    def reach(self) -> str:
        """The ratio to reach."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def verdict(self) -> str:
        """PASS or short, where there is something to reach."""
        if self.ratio is None or not self.reach:
            return ""
        is_reached = (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )
        return "PASS" if is_reached else "short"


def compare(
    scenario: str,
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    against: str,
    bases: Sequence[float],
    **more: float | None,
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
        **more,
    )


def format_table(figures: Sequence[Figure]) -> str:
    """Lay the figures out, a line each."""
    rows = [
        (
            *(figure.scenario, figure.what, _number(figure.value), figure.unit),
            *(_number(figure.p99_ms), figure.against, _number(figure.base)),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            "" if figure.spread is None else "{:.2f}-{:.2f}".format(*figure.spread),
            *(figure.reach, figure.verdict),
        )
        for figure in figures
    ]
    aligned = ("left", "left", "right", "left", "right", "left", *["right"] * 4, "left")
    return tabulate(
        rows, (*HEADERS, "reach", ""), colalign=aligned, disable_numparse=True, tablefmt="simple"
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_json(
    path: Path,
    figures: Sequence[Figure],
    setting: Mapping[str, object],
    failures: Mapping[str, str],
) -> None:
    """Write everything that the table shows, and the setting, as one JSON object."""
    report = {
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "python": sys.version.split()[0],
        },
        "setting": setting,
        "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in figures],
        "failures": failures,
    }
    path.write_text(json.dumps(report, indent=2) + "\n")
