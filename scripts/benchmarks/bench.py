"""How long a run measures, and what all scenarios share."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from load import Call, address, ask, backend_name, drive, encode
from report import Row, Sample, compare
from servers import Server, open_registry

BATCH = 100
FILLERS = 32
Side = Callable[[], Sample]
"""Measures one side of a comparison for one round."""
Driven = Callable[[int], Sample]
"""The same with a number of connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The folder of a run, the text that a row must contain, how long and with how much to run."""

    folder: Path = Path()
    rows: str = ""
    rounds: int = 5
    seconds: float = 0.8
    warm_up: float = 0.2
    stored: tuple[int, ...] = (10, 1_000, 100_000)
    idle: tuple[int, int] = (1_000, 10_000)
    watchers: int = 1_000
    watch_seconds: int = 20

    def new_folder(self) -> Path:
        """Make a folder for one server."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    @contextmanager
    def filled_registry(
        self, stored: int, *options: str, folder: Path | None = None
    ) -> Iterator[Server]:
        """Run a registry of its own in which some backends are registered."""
        names = [backend_name(number) for number in range(stored)]
        requests = [encode("registry.register", address(name)) for name in names]
        batches = [requests[start : start + BATCH] for start in range(0, stored, BATCH)]
        texts = [f"[{','.join(batch)}]" for batch in batches]
        with open_registry(folder or self.new_folder(), *options) as server:
            # Each request of a batch waits for its commit, which those of several batches share.
            with ThreadPoolExecutor(FILLERS) as pool:
                list(pool.map(partial(ask, server.url), texts))
            yield server

    def driving(self, url: str, call: Call) -> Driven:
        """Make a side that loads a server."""
        return partial(drive, url, call, warm_up=self.warm_up, seconds=self.seconds)

    def alternate(self, *sides: Side, rounds: int = 0) -> list[list[Sample]]:
        """Measure sides A B C A B C ... and return each side's rounds."""
        measured = [[side() for side in sides] for _ in range(rounds or self.rounds)]
        return [list(side) for side in zip(*measured, strict=True)]

    def compare(
        self, what: str, ours: Driven, against: str, base: Driven, reach: Mapping[int, float | None]
    ) -> Iterator[Row]:
        """Compare the calls a second of two sides, if the row is wanted.

        `reach` has the numbers of connections, each with the ratio to reach.
        """
        for connections, least in reach.items():
            exactly = connected(what, connections)
            if self.rows in exactly:
                samples, bases = self.alternate(
                    partial(ours, connections), partial(base, connections)
                )
                yield compare(exactly, samples, "calls/s", against, bases, at_least=least)


QUICK = Bench(
    rounds=1,
    seconds=0.2,
    warm_up=0.05,
    stored=(10, 1_000, 5_000),
    idle=(100, 1_000),
    watchers=20,
    watch_seconds=2,
)


def connected(what: str, connections: int) -> str:
    """Describe a row that is measured with some connections."""
    return f"{what}, {connections} connection{'s' if connections > 1 else ''}"
