"""How long a run measures, and the tools that all scenarios share."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_calls import Call
from bench_load import Load
from bench_processes import Cores, LoadGenerator
from bench_report import Figure, Reach, compare


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes of a run.

    Attributes:
        rounds: How often every comparison is repeated, its sides in alternation.
        seconds: How long one side of a round is driven, after `warm_up` seconds.
        read_connections: Connections of the comparisons with the bare server.
        stored: How many backends are stored, smallest first.
        idle_connections: How many connections are opened to weigh one.
        probed: How many backends are probed.
    """

    rounds: int
    seconds: float
    warm_up: float
    read_connections: tuple[int, ...]
    stored: tuple[int, ...]
    idle_connections: int
    probed: int


FULL = Plan(
    rounds=5,
    seconds=0.8,
    warm_up=0.2,
    read_connections=(1, 16),
    stored=(10, 1_000, 100_000),
    idle_connections=1_000,
    probed=10_000,
)
QUICK = Plan(
    rounds=1,
    seconds=0.2,
    warm_up=0.05,
    read_connections=(16,),
    stored=(10, 1_000, 5_000),
    idle_connections=100,
    probed=1_000,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run's plan, load generator, cores and folder."""

    plan: Plan
    load: LoadGenerator
    cores: Cores
    folder: Path

    def drive(self, url: str, call: Call, connections: int) -> Load:
        """Load one server for one side of one round."""
        return self.load.drive(
            url,
            call,
            connections=connections,
            warm_up=self.plan.warm_up,
            seconds=self.plan.seconds,
        )

    def alternate(self, sides: Sequence[tuple[str, Call, int]]) -> list[list[Load]]:
        """Drive sides A B C A B C ... and return each side's rounds."""
        rounds = [[self.drive(*side) for side in sides] for _ in range(self.plan.rounds)]
        return [list(side) for side in zip(*rounds, strict=True)]


def compare_loads(
    scenario: str,
    what: str,
    loads: Sequence[Load],
    *,
    against: str,
    bases: Sequence[float],
    reach: Reach | None = None,
) -> Figure:
    """Make the figure of a driven server: calls a second, with its percentiles."""
    return compare(
        scenario,
        what,
        rates(loads),
        "calls/s",
        against=against,
        bases=bases,
        reach=reach,
        p50_ms=statistics.median(load.p50_ms for load in loads),
        p99_ms=statistics.median(load.p99_ms for load in loads),
    )


def rates(loads: Sequence[Load]) -> list[float]:
    """Take the calls a second of each round."""
    return [load.rate for load in loads]


def connections_text(count: int) -> str:
    """Say how many connections."""
    return "1 connection" if count == 1 else f"{count} connections"
