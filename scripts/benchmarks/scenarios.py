"""The scenarios: each starts its own servers, measures one question and returns figures.

Everything is a ratio of two things measured back to back in one run, because the same machine is
a tenth faster or slower a minute later.
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import load
from bench import Bench, compare_loads, connections_text, rates
from load import ask, tell, while_connected
from report import Figure, compare
from servers import Server, floor, open_process, open_registry, open_server, run_bare_sqlite

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
INFO_MS = 5.0
"""Clients give a hub 300 ms in all; a registry on the same machine owes them far less."""
INFO_CALLS = 40
HUB = "bench-hub"
PROBE_INTERVAL = 15.0
"""The default."""
PROBE_SETTLE_SECONDS = 20.0
PROBED_ADDRESSES = 200
LOOK_SECONDS = 0.02
SOCKETS = 64
CORE = 0.03


def measure_reads(bench: Bench) -> list[Figure]:
    """Compare get, list and ping with a server that answers constants of the same size."""
    names = load.spread_names(LISTED, 50)
    # Ping last: from then on a backend shows `last_seen`, and the replies grow.
    reads = [
        ("get", load.get(names), 0.85),
        (f"list of {LISTED:,}", load.list_all(), 0.9),
        ("ping", load.ping(names), None),
    ]
    figures = []
    with (
        bench.filled_registry(LISTED) as ours,
        open_server(floor("websocket"), bench.cores.server) as bare,
    ):
        for what, call, at_least in reads:
            size = len(ask(ours.url, call.frames[0])[0].encode())
            for connections in bench.plan.read_connections:
                ours_loads, bare_loads = bench.alternate(
                    (ours.url, call, connections),
                    (f"{bare.url}/{size}", call.to_bare_server(), connections),
                )
                figure = compare_loads(
                    "reads",
                    f"{what}, {connections_text(connections)}",
                    ours_loads,
                    against=f"bare server, {size:,} B",
                    bases=rates(bare_loads),
                    at_least=at_least,
                )
                figures.append(figure)
    return figures


def measure_registers(bench: Bench) -> list[Figure]:
    """Compare durable registrations with themselves at one connection, and with bare SQLite."""
    call = load.register_new("new")
    sqlite_rates, rounds = [], []
    with bench.filled_registry(LISTED) as ours:
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
            at_least=4.0 if writers == 64 and bases is not sqlite_rates else None,
        )
        for writers, against, bases in comparisons
    ]


def measure_sizes(bench: Bench) -> list[Figure]:
    """Compare get and register with few and with many backends stored."""
    few, *others = bench.plan.stored
    many = others[-1]
    with ExitStack() as stack:
        urls, filled_in = {}, {}
        for stored in bench.plan.stored:
            started = time.perf_counter()
            urls[stored] = stack.enter_context(bench.filled_registry(stored)).url
            filled_in[stored] = time.perf_counter() - started
        what = f"start, register {many:,}, batches of 100"
        speed = many / filled_in[many]
        figures = [Figure(scenario="sizes", what=what, value=speed, unit="backends/s")]
        for what, make in (("get", load.get), ("register", load.register_moved)):
            few_loads, *other_loads = bench.alternate(
                *((urls[n], make(load.spread_names(n, few)), READERS) for n in bench.plan.stored)
            )
            for stored, loads in zip(others, other_loads, strict=True):
                figure = compare_loads(
                    "sizes",
                    f"{what} with {stored:,} stored",
                    loads,
                    against=f"{what} with {few} stored",
                    bases=rates(few_loads),
                    at_least=0.9 if (what, stored) == ("get", many) else None,
                )
                figures.append(figure)
    return figures


def measure_memory(bench: Bench) -> list[Figure]:
    """Weigh the registry at rest, full, and for each idle connection, beside the bare server."""
    many = bench.plan.stored[-1]
    with open_server(floor("websocket"), bench.cores.server) as bare:
        bare_rest, bare_idle = _weigh(bench, bare, f"{bare.url}/1")
    with bench.filled_registry(0) as ours:
        ask(ours.url, load.list_all().frames[0])
        rest, idle = _weigh(bench, ours, ours.url)
    with bench.filled_registry(many) as ours:
        full = ours.memory()
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


def _weigh(bench: Bench, server: Server, url: str) -> tuple[float, float]:
    """Measure a server at rest and what one idle connection adds, both in bytes."""

    def settle() -> int:
        time.sleep(SETTLE_SECONDS)
        return server.memory()

    rest = settle()
    held = while_connected(url, bench.plan.idle_connections, settle)
    return rest, (held - rest) / bench.plan.idle_connections


def measure_start(bench: Bench) -> list[Figure]:
    """Compare the time to the first answer with that of importing the main libraries."""
    times: dict[str, list[float]] = {"new database": [], "existing database": []}
    imports = []
    for _ in range(bench.plan.rounds + 1):
        folder = bench.new_folder()
        for taken in times.values():
            started = time.perf_counter()
            with open_registry(folder, bench.cores) as server:
                ask(server.url, load.get([load.backend_name(0)]).frames[0])
                taken.append((time.perf_counter() - started) * 1e3)
        imports.append(_time_python(["-c", IMPORTS], bench.cores.server))
    return [
        _compare_times("start", f"first answer, {what}", taken, IMPORTS, imports, at_most=2.0)
        for what, taken in times.items()
    ]


def measure_verbs(bench: Bench) -> list[Figure]:
    """Compare whole runs of client verbs with the import of the library that they do without."""
    with bench.filled_registry(bench.plan.stored[0]) as server:
        asking = {
            "list": ["list", "--url", server.url],
            "list --json": ["list", "--json", "--url", server.url],
            "--help": ["--help"],
        }
        times: dict[str, list[float]] = {what: [] for what in asking}
        imports = []
        for _ in range(bench.plan.rounds * VERB_REPEATS + 1):
            imports.append(_time_python(["-c", CLIENT_IMPORTS], bench.cores.load))
            for what, arguments in asking.items():
                command = ["-m", "plexus_registry", *arguments]
                times[what].append(_time_python(command, bench.cores.load))
    return [
        _compare_times(
            "verbs", what, taken, CLIENT_IMPORTS, imports, at_most=0.5 if what == "--help" else 1.5
        )
        for what, taken in times.items()
    ]


def _compare_times(
    scenario: str,
    what: str,
    times: Sequence[float],
    against: str,
    bases: Sequence[float],
    *,
    at_most: float,
) -> Figure:
    # The first round filled the caches: files read, bytecode written.
    times, bases = times[1:], bases[1:]
    return compare(scenario, what, times, "ms", against=against, bases=bases, at_most=at_most)


def _time_python(arguments: Sequence[str], core: int | None) -> float:
    """Run Python for nothing but this and return the milliseconds until it ended."""
    started = time.perf_counter()
    with open_process([sys.executable, *arguments], core) as process:
        status = process.wait(IMPORT_SECONDS)
        taken = (time.perf_counter() - started) * 1e3
    if status != 0:
        raise RuntimeError(f"{arguments!r} ended with status {status}")
    return taken


def measure_plexus(bench: Bench) -> list[Figure]:
    """Time `_info` with its connection, and compare a hash poll with a get, both by the hub."""
    with bench.filled_registry(LISTED) as ours:
        hub = load.hub_name(ours.url)
        infos = [_info_ms(ours.url) for _ in range(bench.plan.rounds)]
        # As a web page does every few seconds.
        poll = load.make_call(f"{hub}.hash", [{}], r'"event":\s*"hash"', hub)
        get = load.get(load.spread_names(LISTED, 50), hub)
        polls, gets = bench.alternate((ours.url, poll, READERS), (ours.url, get, READERS))
    bases = [INFO_MS] * len(infos)
    against = f"{INFO_MS:g} ms"
    return [
        compare(
            "plexus", "connect, _info, done", infos, "ms", against=against, bases=bases, at_most=1.0
        ),
        compare_loads(
            "plexus",
            f"hash poll, {READERS} connections",
            polls,
            against="get through the hub",
            bases=rates(gets),
            at_least=0.9,
        ),
    ]


def _info_ms(url: str) -> float:
    """Measure the median time of `_info` on a connection of its own, in milliseconds."""
    times = []
    for _ in range(INFO_CALLS):
        started = time.perf_counter()
        ask(url, load.INFO)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def measure_probes(bench: Bench) -> list[Figure]:
    """Let the registry probe, after it has seen everyone once, and weigh the work."""
    folder = bench.new_folder()
    with open_server(floor("hub", HUB), bench.cores.load) as hub:
        port = hub.url.rpartition(":")[2]
        # Each address is shared by few backends.
        (folder / "backends.toml").write_text(
            "\n".join(
                f'[[backend]]\nname = "probed-{number}"\nport = {port}\nnamespace = "{HUB}"\n'
                f'host = "127.0.{number % PROBED_ADDRESSES}.1"\n'
                for number in range(bench.plan.probed)
            )
        )
        with open_registry(folder, bench.cores, probe_interval=PROBE_INTERVAL) as server:
            time.sleep(PROBE_SETTLE_SECONDS)
            shares, sockets = [], []
            for _ in range(bench.plan.rounds):
                began, used = time.monotonic(), server.cpu_seconds
                while (passed := time.monotonic() - began) < PROBE_INTERVAL / 3:
                    sockets.append(server.open_sockets())
                    time.sleep(LOOK_SECONDS)
                shares.append((server.cpu_seconds - used) / passed * 100)
    # Its listener and its own wake-up are there all the time.
    most = float(max(sockets) - min(sockets))
    what = f"{bench.plan.probed:,} backends every {PROBE_INTERVAL:g} s"
    cores = {"against": "one core", "bases": [100.0] * len(shares)}
    slots = {"against": f"{SOCKETS} slots", "bases": [float(SOCKETS)]}
    return [
        compare("probes", what, shares, "% of a core", **cores, at_most=CORE),
        compare("probes", f"open sockets, {what}", [most], "sockets", **slots, at_most=1.0),
    ]


def measure_peer(bench: Bench, peer_url: str) -> list[Figure]:
    """Compare get, list, ping and register with those of the server at `peer_url`.

    Both hold the same backends, registered the same way, and both are spoken to through their
    Plexus hub where both have one, directly otherwise. Only what goes over the socket is compared:
    a peer's process is not ours to pin or to weigh, and one that holds more has more to list.
    """
    # A name of this run's own: what an earlier run left in the peer must not be in the way.
    prefix = f"bench-{os.getpid()}"
    names = [f"{prefix}-stored-{number:06}" for number in range(LISTED)]
    figures = []
    with open_registry(bench.new_folder(), bench.cores) as ours:
        urls = (ours.url, peer_url)
        hubs = [load.hub_name(url) for url in urls]
        if None in hubs:
            hubs = [None, None]
        for url, hub in zip(urls, hubs, strict=True):
            tell(url, load.register_frames(names, hub))
        pairs = {
            "get": [load.get(names[:50], hub) for hub in hubs],
            "list": [load.list_all(hub) for hub in hubs],
            "ping": [load.ping(names[:50], hub) for hub in hubs],
            "register": [load.register_new(f"{prefix}-new", hub) for hub in hubs],
        }
        way = "directly" if None in hubs else "as Plexus"
        for what, pair in pairs.items():
            for connections in (1, READERS):
                ours_loads, peer_loads = bench.alternate(
                    *((url, call, connections) for url, call in zip(urls, pair, strict=True))
                )
                what_exactly = f"{what} {way}, {connections_text(connections)}"
                bases = rates(peer_loads)
                figures.append(
                    compare_loads("peer", what_exactly, ours_loads, against="peer", bases=bases)
                )
    return figures
