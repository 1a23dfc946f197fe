"""Measure the registry against the least that its parts can do, and against itself.

Prints a table and writes the same as JSON. Every figure that matters is a ratio of two things
measured in alternation in this one run; absolute numbers belong to the machine.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from bench_fairness import measure_fairness
from bench_peer import measure_peer
from bench_plan import FULL, QUICK, Bench, Plan
from bench_plexus import measure_plexus
from bench_probes import measure_probes
from bench_processes import Cores, choose_cores, open_load_generator, pin
from bench_report import Figure, format_table, write_json
from bench_scenarios import (
    measure_memory,
    measure_reads,
    measure_registers,
    measure_sizes,
    measure_start,
    measure_verbs,
)
from picows import WSError

SCENARIOS: dict[str, Callable[[Bench], list[Figure]]] = {
    "reads": measure_reads,
    "register": measure_registers,
    "sizes": measure_sizes,
    "memory": measure_memory,
    "start": measure_start,
    "verbs": measure_verbs,
    "plexus": measure_plexus,
    "probes": measure_probes,
    "fairness": measure_fairness,
}

BUSY = 0.5
"""The load average from which on the spread of the rounds says more than their median."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="NAME[,NAME]",
        help=f"run these scenarios only: {', '.join(SCENARIOS)}, and peer with --peer",
    )
    parser.add_argument(
        "--peer",
        metavar="URL",
        help="also drive the server at ws://HOST:PORT; it keeps the backends registered there, "
        "so give it a scratch database",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a short smoke run, too noisy to judge"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="repeat each comparison N times")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench-results.json"),
        metavar="FILE",
        help="where the JSON goes (bench-results.json)",
    )
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    known = [*SCENARIOS, "peer"] if arguments.peer else [*SCENARIOS]
    for name in arguments.only.split(",") if arguments.only else ():
        if name not in known:
            parser.error(f"--only: {name!r} is none of {', '.join(known)}")
    return arguments


def choose_scenarios(
    only: str | None, peer: str | None
) -> dict[str, Callable[[Bench], list[Figure]]]:
    """Select what to run, in the order of `SCENARIOS`; the peer comes last."""
    scenarios = dict(SCENARIOS)
    if peer is not None:
        scenarios["peer"] = partial(measure_peer, peer_url=peer)
    if only is None:
        return scenarios
    return {name: scenario for name, scenario in scenarios.items() if name in only.split(",")}


def run(
    scenarios: dict[str, Callable[[Bench], list[Figure]]], plan: Plan, cores: Cores, folder: Path
) -> tuple[list[Figure], dict[str, str]]:
    """Run the scenarios; return their figures, and why for each that came to none."""
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    with open_load_generator(cores) as load:
        bench = Bench(plan=plan, load=load, cores=cores, folder=folder)
        for name, scenario in scenarios.items():
            started = time.perf_counter()
            try:
                figures += scenario(bench)
            except (OSError, RuntimeError, ValueError, WSError) as error:
                failures[name] = str(error) or type(error).__name__
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return figures, failures


def main() -> int:
    arguments = parse_arguments()
    # Ended from outside, we still stop our children: SystemExit unwinds the contexts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))
    busy = os.getloadavg()[0]
    if busy > BUSY:
        print(f"load average {busy:.1f}: others are at work, be wary", file=sys.stderr, flush=True)
    cores = choose_cores()
    pin(cores.load)
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        plan = replace(plan, rounds=arguments.rounds)
    scenarios = choose_scenarios(arguments.only, arguments.peer)
    # Here and not in the system's temporary folder, which may be memory: commits shall be real.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        where = (
            "nothing pinned"
            if cores.server is None
            else f"servers on core {cores.server}, load on core {cores.load}"
        )
        print(f"databases in {folder}; {where}", file=sys.stderr, flush=True)
        figures, failures = run(scenarios, plan, cores, Path(folder))
    if figures:
        print(format_table(figures))
    for name, why in failures.items():
        print(f"{name} failed: {why}")
    setting: dict[str, object] = {
        "quick": arguments.quick,
        "load_average_before": busy,
        "cores": asdict(cores),
        "plan": asdict(plan),
    }
    write_json(arguments.output, figures, setting, failures)
    print(f"written to {arguments.output}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
