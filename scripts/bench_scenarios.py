"""The scenarios: each starts its own servers, measures one question and returns figures.

Everything is a ratio of two things measured back to back in one run, because the same machine is
a tenth faster or slower a minute later.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import bench_calls as calls
from bench_client import ask, tell, while_connected
from bench_plan import Bench, compare_loads, connections_text, rates
from bench_processes import (
    Cores,
    Server,
    open_bare_websocket,
    open_process,
    open_registry,
    resident_bytes,
    run_bare_sqlite,
)
from bench_report import Figure, Reach, compare

LISTED = 1_000
READERS = 16
WRITERS = (1, 16, 64, 256)
SETTLE_SECONDS = 0.5
IMPORTS = "import trio_websocket, sqlite_utils"
CLIENT_IMPORTS = "import trio_websocket"
VERB_REPEATS = 3
IMPORT_SECONDS = 60
KILOBYTE = 1024
MEGABYTE = 1024 * KILOBYTE

_folder_numbers = count()


def new_folder(bench: Bench) -> Path:
    """Name a folder of the run that nothing has used yet."""
    return bench.folder / f"registry-{next(_folder_numbers)}"


@contextmanager
def open_filled_registry(bench: Bench, stored: int) -> Iterator[Server]:
    """Run a registry of its own in which `stored` backends are registered."""
    with open_registry(new_folder(bench), bench.cores) as server:
        tell(server.url, calls.register_batches(stored))
        yield server


def measure_reads(bench: Bench) -> list[Figure]:
    """Compare get, list and ping with a server that answers constants of the same size."""
    names = calls.spread_names(LISTED, 50)
    # Ping last: from then on a backend shows `last_seen`, and the replies grow.
    reads = [
        ("get", calls.get(names), Reach(at_least=0.85)),
        (f"list of {LISTED:,}", calls.list_all(), Reach(at_least=0.9)),
        ("ping", calls.ping(names), None),
    ]
    figures = []
    with open_filled_registry(bench, LISTED) as ours, open_bare_websocket(bench.cores) as bare:
        for what, call, reach in reads:
            size = len(ask(ours.url, call.frames[0])[0].encode())
            constant = f"{bare.url}/{size}"
            for connections in bench.plan.read_connections:
                ours_loads, bare_loads = bench.alternate(
                    [
                        (ours.url, call, connections),
                        (constant, call.to_bare_server(), connections),
                    ]
                )
                figure = compare_loads(
                    "reads",
                    f"{what}, {connections_text(connections)}",
                    ours_loads,
                    against=f"bare server, {size:,} B",
                    bases=rates(bare_loads),
                    reach=reach,
                )
                figures.append(figure)
    return figures


def measure_registers(bench: Bench) -> list[Figure]:
    """Compare durable registrations with themselves at one connection, and with bare SQLite."""
    call = calls.register_new("new")
    sqlite_rates = []
    rounds = []
    with open_filled_registry(bench, LISTED) as ours:
        for _ in range(bench.plan.rounds):
            sqlite_rates.append(run_bare_sqlite(bench.folder, bench.plan.seconds, bench.cores))
            rounds.append([bench.drive(ours.url, call, writers) for writers in WRITERS])
    loads = dict(zip(WRITERS, zip(*rounds, strict=True), strict=True))
    comparisons = [
        (writers, "register, 1 connection", rates(loads[1])) for writers in WRITERS if writers > 1
    ]
    comparisons += [(writers, "SQLite, a commit a row", sqlite_rates) for writers in WRITERS]
    return [
        compare_loads(
            "register",
            f"register, {connections_text(writers)}",
            loads[writers],
            against=against,
            bases=bases,
            reach=Reach(at_least=4.0) if writers == 64 and bases is not sqlite_rates else None,
        )
        for writers, against, bases in comparisons
    ]


def measure_sizes(bench: Bench) -> list[Figure]:
    """Compare get and register with few and with many backends stored."""
    few, *others = bench.plan.stored
    many = others[-1]
    figures = []
    with ExitStack() as stack:
        urls, filled_in = {}, {}
        for stored in bench.plan.stored:
            started = time.perf_counter()
            urls[stored] = stack.enter_context(open_filled_registry(bench, stored)).url
            filled_in[stored] = time.perf_counter() - started
        figures.append(
            Figure(
                scenario="sizes",
                what=f"start, register {many:,}, batches of 100",
                value=many / filled_in[many],
                unit="backends/s",
            )
        )
        for what, make in (("get", calls.get), ("register", calls.register_moved)):
            sides = [
                (urls[stored], make(calls.spread_names(stored, few)), READERS)
                for stored in bench.plan.stored
            ]
            few_loads, *other_loads = bench.alternate(sides)
            for stored, loads in zip(others, other_loads, strict=True):
                figure = compare_loads(
                    "sizes",
                    f"{what} with {stored:,} stored",
                    loads,
                    against=f"{what} with {few} stored",
                    bases=rates(few_loads),
                    reach=Reach(at_least=0.9) if (what, stored) == ("get", many) else None,
                )
                figures.append(figure)
    return figures


def measure_memory(bench: Bench) -> list[Figure]:
    """Weigh the registry at rest, full, and for each idle connection, beside the bare server."""
    many = bench.plan.stored[-1]
    with open_bare_websocket(bench.cores) as bare:
        bare_rest, bare_idle = weigh(bench, bare, f"{bare.url}/1")
    with open_filled_registry(bench, 0) as ours:
        ask(ours.url, calls.list_all().frames[0])
        rest, idle = weigh(bench, ours, ours.url)
    with open_filled_registry(bench, many) as ours:
        full = resident_bytes(ours.process_id)
    weights = [
        ("at rest", rest, "bare server at rest", bare_rest, MEGABYTE, "MB"),
        ("an idle connection", idle, "bare server's", bare_idle, KILOBYTE, "KB"),
        (f"with {many:,} stored", full, "at rest", rest, MEGABYTE, "MB"),
    ]
    figures = [
        compare("memory", what, [value / unit], name, against=against, bases=[base / unit])
        for what, value, against, base, unit, name in weights
    ]
    each = (full - rest) / many / KILOBYTE
    return [*figures, Figure(scenario="memory", what="a backend", value=each, unit="KB")]


def weigh(bench: Bench, server: Server, url: str) -> tuple[float, float]:
    """Measure a server at rest and what one idle connection adds, both in bytes."""

    def settle() -> int:
        time.sleep(SETTLE_SECONDS)
        return resident_bytes(server.process_id)

    rest = settle()
    held = while_connected(url, bench.plan.idle_connections, settle)
    return rest, (held - rest) / bench.plan.idle_connections


def measure_start(bench: Bench) -> list[Figure]:
    """Compare the time to the first answer with that of importing the main libraries."""
    new: list[float] = []
    existing: list[float] = []
    imports: list[float] = []
    for _ in range(bench.plan.rounds + 1):
        folder = new_folder(bench)
        new.append(time_to_answer(folder, bench.cores))
        existing.append(time_to_answer(folder, bench.cores))
        imports.append(time_python(["-c", IMPORTS], bench.cores.server))
    # The first round filled the caches: files read, bytecode written.
    return [
        compare(
            "start",
            f"first answer, {what}",
            times[1:],
            "ms",
            against=IMPORTS,
            bases=imports[1:],
            reach=Reach(at_most=2.0),
        )
        for what, times in (("new database", new), ("existing database", existing))
    ]


def time_to_answer(folder: Path, cores: Cores) -> float:
    """Start the registry, ask it for a backend, and return the milliseconds until it answered."""
    started = time.perf_counter()
    with open_registry(folder, cores) as server:
        ask(server.url, calls.get([calls.backend_name(0)]).frames[0])
        return (time.perf_counter() - started) * 1e3


def measure_verbs(bench: Bench) -> list[Figure]:
    """Compare whole runs of client verbs with the import of the library that they do without."""
    verb = ["-m", "plexus_registry"]
    with open_filled_registry(bench, bench.plan.stored[0]) as server:
        asking = {
            "list": [*verb, "list", "--url", server.url],
            "list --json": [*verb, "list", "--json", "--url", server.url],
            "--help": [*verb, "--help"],
        }
        times: dict[str, list[float]] = {what: [] for what in asking}
        imports: list[float] = []
        for _ in range(bench.plan.rounds * VERB_REPEATS + 1):
            imports.append(time_python(["-c", CLIENT_IMPORTS], bench.cores.load))
            for what, arguments in asking.items():
                times[what].append(time_python(arguments, bench.cores.load))
    # The first round filled the caches: files read, bytecode written.
    return [
        compare(
            "verbs",
            what,
            taken[1:],
            "ms",
            against=CLIENT_IMPORTS,
            bases=imports[1:],
            reach=Reach(at_most=0.5 if what == "--help" else 1.5),
        )
        for what, taken in times.items()
    ]


def time_python(arguments: Sequence[str], core: int | None) -> float:
    """Run Python for nothing but this and return the milliseconds until it ended."""
    started = time.perf_counter()
    with open_process([sys.executable, *arguments], core) as process:
        status = process.wait(IMPORT_SECONDS)
        taken = (time.perf_counter() - started) * 1e3
    if status != 0:
        raise RuntimeError(f"{arguments!r} ended with status {status}")
    return taken
