"""Measure the registry against the least that its parts can do, other registries, and itself.

Every figure that matters is a ratio of two things measured in alternation in this one run;
absolute numbers belong to the machine.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import peers
import scenarios
from bench import QUICK, Bench
from fairness import measure_fairness
from report import ALIGNED, HEADERS, Row
from servers import LOAD_CORE, SERVER_CORE
from tabulate import tabulate
from watchers import measure_watchers

SCENARIOS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "reads": scenarios.measure_reads,
    "register": scenarios.measure_registers,
    "sizes": scenarios.measure_sizes,
    "memory": scenarios.measure_memory,
    "start": scenarios.measure_start,
    "verbs": scenarios.measure_verbs,
    "plexus": scenarios.measure_plexus,
    "probes": scenarios.measure_probes,
    "fairness": measure_fairness,
    "watchers": measure_watchers,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    option = parser.add_argument
    only = f"{', '.join(SCENARIOS)}; peer with --peer, etcd with --etcd"
    option("--only", metavar="NAME[,NAME]", help=f"run these scenarios only: {only}")
    rows = "measure only the comparisons of calls whose description contains TEXT"
    option("--rows", metavar="TEXT", default="", help=rows)
    option("--peer", metavar="PATH", help="also compare with the original, the program at PATH")
    option("--etcd", action="store_true", help="also compare with etcd, which wrk drives")
    option("--quick", action="store_true", help="a short smoke run, too noisy to judge")
    option("--rounds", type=int, metavar="N", help="repeat each comparison N times")
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    if arguments.peer is not None:
        SCENARIOS["peer"] = partial(peers.measure_original, path=arguments.peer)
    if arguments.etcd:
        SCENARIOS["etcd"] = peers.measure_etcd
    arguments.only = arguments.only.split(",") if arguments.only else [*SCENARIOS]
    for name in arguments.only:
        if name not in SCENARIOS:
            parser.error(f"--only: {name!r} is none of {', '.join(SCENARIOS)}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    # Ended from outside, we still stop our children: SystemExit unwinds the contexts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    note = partial(print, file=sys.stderr, flush=True)
    note(
        f"servers on core {SERVER_CORE}, load on core {LOAD_CORE}; load average "
        f"{os.getloadavg()[0]:.1f}: above 0.5, others are at work, and the rounds will differ"
    )
    os.sched_setaffinity(0, {LOAD_CORE})
    bench = replace(QUICK if arguments.quick else Bench(), rows=arguments.rows)
    if arguments.rounds is not None:
        bench = replace(bench, rounds=arguments.rounds)
    table: list[Row] = []
    failures = []
    # Here and not in the system's temporary folder, which may be memory: commits shall be real.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        bench = replace(bench, folder=Path(folder))
        for name in arguments.only:
            try:
                for row in SCENARIOS[name](bench):
                    table.append((name, *row))
                    note(" ".join(filter(None, table[-1])))
            except (OSError, RuntimeError, ValueError) as error:
                failures.append(f"{name} failed: {str(error) or type(error).__name__}")
    print(tabulate(table, HEADERS, colalign=ALIGNED, disable_numparse=True, tablefmt="simple"))
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
