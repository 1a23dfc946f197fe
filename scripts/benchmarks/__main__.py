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

import scenarios
from bench import QUICK, Bench, Plan
from fairness import measure_fairness
from picows import WSError
from report import Figure, format_table, write_json
from servers import choose_cores, pin

SCENARIOS: dict[str, Callable[[Bench], list[Figure]]] = {
    "reads": scenarios.measure_reads,
    "register": scenarios.measure_registers,
    "sizes": scenarios.measure_sizes,
    "memory": scenarios.measure_memory,
    "start": scenarios.measure_start,
    "verbs": scenarios.measure_verbs,
    "plexus": scenarios.measure_plexus,
    "probes": scenarios.measure_probes,
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
    if arguments.peer is not None:
        SCENARIOS["peer"] = partial(scenarios.measure_peer, peer_url=arguments.peer)
    arguments.only = arguments.only.split(",") if arguments.only else [*SCENARIOS]
    for name in arguments.only:
        if name not in SCENARIOS:
            parser.error(f"--only: {name!r} is none of {', '.join(SCENARIOS)}")
    return arguments


def run(bench: Bench, names: list[str]) -> tuple[list[Figure], dict[str, str]]:
    """Run scenarios; return their figures, and why for each that came to none."""
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for name, scenario in SCENARIOS.items():
        if name not in names:
            continue
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
    plan = QUICK if arguments.quick else Plan()
    if arguments.rounds is not None:
        plan = replace(plan, rounds=arguments.rounds)
    # Here and not in the system's temporary folder, which may be memory: commits shall be real.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        where = (
            "nothing pinned"
            if cores.server is None
            else f"servers on core {cores.server}, load on core {cores.load}"
        )
        print(f"databases in {folder}; {where}", file=sys.stderr, flush=True)
        figures, failures = run(Bench(plan=plan, cores=cores, folder=Path(folder)), arguments.only)
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
