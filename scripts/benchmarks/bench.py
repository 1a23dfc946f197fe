"""How long a run measures, and what all scenarios share."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from load import Call, Load, drive, register_batches, tell
from report import Figure, compare
from servers import Cores, Server, open_registry

_folder_numbers = count()


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

    rounds: int = 5
    seconds: float = 0.8
    warm_up: float = 0.2
    read_connections: tuple[int, ...] = (1, 16)
    stored: tuple[int, ...] = (10, 1_000, 100_000)
    idle_connections: int = 1_000
    probed: int = 1_000


QUICK = Plan(
    rounds=1,
    seconds=0.2,
    warm_up=0.05,
    read_connections=(16,),
    stored=(10, 1_000, 5_000),
    idle_connections=100,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run's plan, cores and folder."""

    plan: Plan
    cores: Cores
    folder: Path

    def new_folder(self) -> Path:
        """Make a folder of the run that nothing has used yet."""
        folder = self.folder / f"registry-{next(_folder_numbers)}"
        folder.mkdir()
        return folder

    @contextmanager
    def filled_registry(self, stored: int) -> Iterator[Server]:
        """Run a registry of its own in which `stored` backends are registered."""
        with open_registry(self.new_folder(), self.cores) as server:
            tell(server.url, register_batches(stored))
            yield server

    def drive(self, url: str, call: Call, connections: int) -> Load:
        """Load one server for one side of one round."""
        plan = self.plan
        return drive(url, call, connections=connections, warm_up=plan.warm_up, seconds=plan.seconds)

    def alternate(self, *sides: tuple[str, Call, int]) -> list[list[Load]]:
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
    at_least: float | None = None,
) -> Figure:
    """Make the figure of a driven server: calls a second, with its percentiles."""
    return compare(
        scenario,
        what,
        rates(loads),
        "calls/s",
        against=against,
        bases=bases,
        at_least=at_least,
        p50_ms=statistics.median(load.p50_ms for load in loads),
        p99_ms=statistics.median(load.p99_ms for load in loads),
    )


def rates(loads: Sequence[Load]) -> list[float]:
    """Take the calls a second of each round."""
    return [load.rate for load in loads]


def connections_text(connections: int) -> str:
    """Write a number of connections."""
    return "1 connection" if connections == 1 else f"{connections} connections"
