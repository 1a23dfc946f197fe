"""The scenarios about the registry alone: each yields the figures of one question.

Everything is a ratio of two things measured back to back in one run, because the same machine is
a tenth faster or slower a minute later.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import load
from bench import Bench, Side, connected
from report import Row, Sample, compare, state
from servers import HERE, LOAD_CORE, SERVER_CORE, Server, open_floor, open_registry, run

LISTED = 1_000
SOME = range(0, LISTED, 20)
READERS = 16
WRITERS = (1, 16, 64, 256)
VERB_ROUNDS = 3
KILOBYTE = 1024
MEGABYTE = 1024 * KILOBYTE
IDLE_BYTES = 250 * MEGABYTE // 10_000
INFO_MS = 5.0
"""Clients give a hub 300 ms in all; a registry on the same machine owes them far less."""
INFO_CALLS = 40
PROBED = 1_000
PROBE_INTERVAL = 15.0
"""The default."""
PROBE_SETTLE_SECONDS = 20.0
LOOK_SECONDS = 0.02
SOCKETS = 64
"""How many probes may run at the same time."""


def measure_reads(bench: Bench) -> Iterator[Row]:
    """Compare get, list and ping with a server that answers constants of the same size."""
    # Ping last: from then on a backend shows `last_seen`, and the replies grow.
    reads: list[tuple[str, load.Call, dict[int, float | None]]] = [
        ("get", load.call("registry.get", load.named(SOME)), {1: 0.85, READERS: 2.3}),
        (f"list of {LISTED:,}", load.call("registry.list", [{}]), {1: 0.9, READERS: 0.9}),
        ("ping", load.call("registry.ping", load.named(SOME)), {1: None, READERS: None}),
    ]
    with bench.filled_registry(LISTED) as ours, open_floor() as bare:
        for what, call, reach in reads:
            size = len(load.ask(ours.url, call.requests[0])[0])
            constant = bench.driving(f"{bare.url}/{size}", load.Call(call.requests, ("",)))
            against = f"bare server, {size:,} B"
            driven = bench.driving(ours.url, call)
            yield from bench.compare(what, driven, against, constant, reach)


def measure_registers(bench: Bench) -> Iterator[Row]:
    """Compare durable registrations with themselves at one connection, and with bare SQLite."""
    sqlite = [sys.executable, str(HERE / "floor.py"), "sqlite"]
    sqlite += [str(bench.folder), str(bench.seconds)]
    register = load.call("registry.register", load.UNSEEN)
    with bench.filled_registry(LISTED) as ours:
        rows, *rounds = bench.alternate(
            lambda: Sample(float(run(sqlite))),
            *(partial(bench.driving(ours.url, register), writers) for writers in WRITERS),
        )
    for writers, samples in zip(WRITERS, rounds, strict=True):
        what = connected("register", writers)
        if writers > 1:
            least = 4.0 if writers == 64 else None
            alone = connected("register", 1)
            yield compare(what, samples, "calls/s", alone, rounds[0], at_least=least)
        yield compare(what, samples, "calls/s", "SQLite, a commit a row", rows)


def measure_sizes(bench: Bench) -> Iterator[Row]:
    """Compare get and update with few and with many backends stored."""
    few, *others = bench.stored
    many, started, urls = others[-1], 0.0, {}
    with ExitStack() as stack:
        for stored in bench.stored:
            started = time.perf_counter()
            urls[stored] = stack.enter_context(bench.filled_registry(stored)).url
        speed = many / (time.perf_counter() - started)
        what = f"start, register {many:,}, batches of 100"
        yield state(what, speed, "backends/s")
        for verb, make in (("get", load.named), ("update", load.moved)):
            sides = {}
            for stored, url in urls.items():
                call = load.call(f"registry.{verb}", make(range(0, stored, stored // few)))
                sides[stored] = bench.driving(url, call)
            for stored in others:
                least = 0.95 if (verb, stored) == ("get", many) else None
                what, against = f"{verb} with {stored:,} stored", f"{verb} with {few} stored"
                reach = {READERS: least}
                yield from bench.compare(what, sides[stored], against, sides[few], reach)


def measure_memory(bench: Bench) -> Iterator[Row]:
    """Weigh the registry at rest, full, and with idle connections, beside the bare server."""
    (some, crowd), many = bench.idle, bench.stored[-1]
    with open_floor() as bare:
        bare_rest, bare_held = _weigh(bare, f"{bare.url}/1", some)
    with bench.filled_registry(0, "--max-connections", str(crowd + some)) as ours:
        rest, held = _weigh(ours, ours.url, some)
        _, crowded = _weigh(ours, ours.url, crowd)
    with bench.filled_registry(many) as ours:
        full = ours.memory()
    each, bare_each = (held - rest) / some, (bare_held - bare_rest) / some
    for what, value, against, base, unit, most in (
        ("at rest", rest, "bare server at rest", bare_rest, "MB", None),
        ("an idle connection", each, "bare server's", bare_each, "KB", 1.15),
        (f"{crowd:,} idle connections", crowded - rest, "reach", IDLE_BYTES * crowd, "MB", 1.0),
        (f"with {many:,} stored", full, "at rest", rest, "MB", None),
    ):
        size = KILOBYTE if unit == "KB" else MEGABYTE
        yield compare(what, [Sample(value / size)], unit, against, base / size, at_most=most)
    yield state("a backend", (full - rest) / many / KILOBYTE, "KB")


def _weigh(server: Server, url: str, connections: int) -> tuple[int, int]:
    """Return the memory of a server at rest, and with idle connections, in bytes."""
    time.sleep(0.5)
    rest = server.memory()
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(load.Client(url))
        time.sleep(0.5)
        return rest, server.memory()


def measure_start(bench: Bench) -> Iterator[Row]:
    """Compare the time to the first answer with that of importing the main libraries."""
    request = load.encode("registry.get", {"name": load.backend_name(0)})
    folders = []

    def answer(*, is_new: bool) -> Sample:
        if is_new:
            folders.append(bench.new_folder())
        started = time.perf_counter()
        with open_registry(folders[-1]) as server:
            load.ask(server.url, request)
            return Sample((time.perf_counter() - started) * 1e3)

    sides: dict[str, tuple[Side, float]] = {
        "first answer, new database": (partial(answer, is_new=True), 2.0),
        "first answer, existing database": (partial(answer, is_new=False), 2.0),
    }
    libraries = "import trio_websocket, sqlite_utils"
    yield from _compare_times(bench, sides, SERVER_CORE, libraries, bench.rounds)


def measure_verbs(bench: Bench) -> Iterator[Row]:
    """Compare whole runs of client verbs with the import of the library that they do without."""
    with bench.filled_registry(bench.stored[0]) as server:
        verb = partial(_time_python, LOAD_CORE, "-m", "plexus_registry")
        sides: dict[str, tuple[Side, float]] = {
            "list": (partial(verb, "list", "--url", server.url), 1.5),
            "list --json": (partial(verb, "list", "--json", "--url", server.url), 1.5),
            "--help": (partial(verb, "--help"), 0.5),
        }
        rounds = bench.rounds * VERB_ROUNDS
        yield from _compare_times(bench, sides, LOAD_CORE, "import trio_websocket", rounds)


def _compare_times(
    bench: Bench, sides: dict[str, tuple[Side, float]], core: int, imports: str, rounds: int
) -> Iterator[Row]:
    """Compare milliseconds with those of an import; each side comes with what it may take."""
    importing = partial(_time_python, core, "-c", imports)
    times = bench.alternate(importing, *(side for side, _ in sides.values()), rounds=rounds + 1)
    # The first round filled the caches: files read, bytecode written.
    bases, *measured = (samples[1:] for samples in times)
    for (what, (_, most)), samples in zip(sides.items(), measured, strict=True):
        yield compare(what, samples, "ms", imports, bases, at_most=most)


def _time_python(core: int, *arguments: str) -> Sample:
    """Run Python for nothing but this and return the milliseconds until it ended."""
    started = time.perf_counter()
    run([sys.executable, *arguments], core)
    return Sample((time.perf_counter() - started) * 1e3)


def measure_plexus(bench: Bench) -> Iterator[Row]:
    """Time `_info` with its connection, and compare a hash poll with a get, both by the hub."""
    with bench.filled_registry(LISTED) as ours:
        hub, infos = load.hub_name(ours.url), []
        for _ in range(bench.rounds):
            times = []
            for _ in range(INFO_CALLS):
                started = time.perf_counter()
                load.ask(ours.url, load.INFO, messages=3)
                times.append((time.perf_counter() - started) * 1e3)
            infos.append(Sample(statistics.median(times)))
        yield compare("connect, _info, done", infos, "ms", "reach", INFO_MS, at_most=1.0)
        # As a web page does every few seconds.
        poll = bench.driving(ours.url, load.call(f"{hub}.hash", [{}], hub))
        get = bench.driving(ours.url, load.call("registry.get", load.named(SOME), hub))
        yield from bench.compare("hash poll", poll, "get through the hub", get, {READERS: 0.9})


def measure_probes(bench: Bench) -> Iterator[Row]:
    """Let the registry probe, after it has seen everyone once, and weigh the work."""
    shares, sockets, folder = [], [], bench.new_folder()
    everywhere = ("--host", "0.0.0.0", "--insecure")  # on every loopback address
    with open_registry(bench.new_folder(), *everywhere, core=LOAD_CORE) as hub:
        backend = f'[[backend]]\nport = {hub.port}\nnamespace = "{load.hub_name(hub.url)}"\n'
        # Each address is shared by few backends.
        entries = (f'host = "127.0.{i % 200}.1"\nname = "probed-{i}"\n' for i in range(PROBED))
        (folder / "backends.toml").write_text("".join(backend + entry for entry in entries))
        interval = ("--probe-interval", str(PROBE_INTERVAL))
        with bench.filled_registry(0, *interval, folder=folder) as server:
            time.sleep(PROBE_SETTLE_SECONDS)
            for _ in range(bench.rounds):
                began, used = time.monotonic(), server.cpu_seconds
                while (passed := time.monotonic() - began) < PROBE_INTERVAL / 3:
                    sockets.append(server.open_sockets())
                    time.sleep(LOOK_SECONDS)
                shares.append(Sample((server.cpu_seconds - used) / passed * 100))
    what = f"{PROBED:,} backends every {PROBE_INTERVAL:g} s"
    yield compare(what, shares, "% of a core", "one core", 100.0, at_most=0.03)
    # Its listener and its own wake-up are there all the time.
    most = [Sample(max(sockets) - min(sockets))]
    yield compare(f"open sockets, {what}", most, "sockets", "slots", SOCKETS, at_most=1.0)
