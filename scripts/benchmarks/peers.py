"""The scenarios beside other registries: the original, and etcd through its HTTP gateway."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from urllib.request import urlopen

from bench import Bench
from load import INFO_CALL, UNSEEN, address, ask, backend_name, call, encode, hub_name, moved, named
from report import Row, Sample
from servers import LOAD_CORE, find_program, free_port, open_registry, open_server, run

STORED = 1_000
SOME = range(50)
CARGO = "cargo install plexus-registry --version 0.1.5"
APT = "apt-get install etcd-server wrk"
WRK_SCRIPT = """
local n = {start}
wrk.method = "POST"
function request()
  n = n + 1
  return wrk.format(nil, nil, nil, string.format('{body}', n % {keys}))
end
"""
RATE = re.compile(r"Requests/sec:\s*([\d.]+)")
P99 = re.compile(r"99%\s+([\d.]+)(us|ms|s)")
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def measure_original(bench: Bench, path: str) -> Iterator[Row]:
    """Compare the calls of Plexus clients with those of the original, on the same backends."""
    program = find_program(path, CARGO)
    with (
        bench.filled_registry(STORED) as ours,
        open_registry(bench.new_folder(), program=program) as original,
    ):
        hub = hub_name(original.url)
        stored = [address(backend_name(number)) for number in range(STORED)]
        requests = [encode("registry.register", params, hub) for params in stored]
        ask(original.url, *requests, messages=3)
        # All are pinged in turn: a second ping in one second changes nothing and costs nothing.
        # Registrations come last: they add to what is listed.
        for what, each, reach in (
            ("get", call("registry.get", named(SOME), hub), {1: 1.5, 16: 1.6, 64: 1.6}),
            ("_info", INFO_CALL, {16: 1.6}),
            (f"list of {STORED:,}", call("registry.list", [{}], hub), {1: 14.0, 16: 18.0}),
            ("ping", call("registry.ping", named(range(STORED)), hub), {1: None, 64: 16.0}),
            ("update", call("registry.update", moved(SOME), hub), {1: None, 64: 11.0}),
            ("register", call("registry.register", UNSEEN, hub), {1: 1.7, 16: 8.0, 64: 10.0}),
        ):
            ours_driven, theirs = bench.driving(ours.url, each), bench.driving(original.url, each)
            yield from bench.compare(what, ours_driven, "the original", theirs, reach)


def measure_etcd(bench: Bench) -> Iterator[Row]:
    """Compare direct calls with gets and durable puts of etcd, through its HTTP gateway."""
    gets, registers = call("registry.get", named(SOME)), call("registry.register", UNSEEN)
    wrk = partial(_drive_wrk, bench, find_program("wrk", APT))
    with bench.filled_registry(STORED) as ours, _open_etcd(bench) as url:
        entry = json.loads(ask(ours.url, gets.requests[0])[0])["result"]["backend"]
        value = b64encode(json.dumps(entry).encode()).decode()
        # Twelve digits are a key in Base64, too.
        put, fetch = f'{{"key":"%012d","value":"{value}"}}', '{"key":"%012d"}'
        for number in range(STORED):
            urlopen(f"{url}/put", (put % number).encode()).close()
        etcd = partial(wrk, f"{url}/range", fetch, iter([]), len(SOME))
        direct = bench.driving(ours.url, gets)
        yield from bench.compare("direct get", direct, "etcd, range of a key", etcd, {16: 6.0})
        etcd = partial(wrk, f"{url}/put", put, count(STORED, 10**6), 10**12)
        direct, reach = bench.driving(ours.url, registers), {16: 1.5, 64: 1.5}
        yield from bench.compare("direct register", direct, "etcd, put of a new key", etcd, reach)


@contextmanager
def _open_etcd(bench: Bench) -> Iterator[str]:
    """Run etcd on its core, and yield the URL of its keys."""
    port = free_port()
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    command = [find_program("etcd", APT), "--data-dir", str(bench.new_folder())]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"default={peer}", "--logger", "zap", "--log-level", "error"]
    with open_server(command, port):
        yield f"{client}/v3/kv"


def _drive_wrk(
    bench: Bench, wrk: str, url: str, body: str, starts: Iterator[int], keys: int, connections: int
) -> Sample:
    """Post `body` for a second, each time with the next number as its key."""
    script = bench.folder / "wrk.lua"
    script.write_text(WRK_SCRIPT.format(start=next(starts, 0), body=body, keys=keys))
    command = [wrk, "--threads", "1", "--connections", str(connections), "--duration", "1s"]
    output = run([*command, "--latency", "--script", str(script), url], LOAD_CORE)
    rate, p99 = RATE.search(output), P99.search(output)
    if rate is None or p99 is None or "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"wrk and etcd: {output}")
    return Sample(float(rate[1]), float(p99[1]) * MILLISECONDS[p99[2]])
