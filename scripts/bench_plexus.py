"""How quickly a Plexus client finds out who is there, and what its polling costs."""

import statistics
import time

import bench_calls as calls
from bench_client import ask, hub_name
from bench_plan import Bench, compare_loads, rates
from bench_report import Figure, Reach, compare
from bench_scenarios import LISTED, READERS, open_filled_registry

INFO = '{"jsonrpc":"2.0","id":1,"method":"_info","params":null}'
INFO_MS = 5.0
"""Clients give a hub 300 ms in all; a registry on the same machine owes them far less."""
PROBES = 40


def measure_plexus(bench: Bench) -> list[Figure]:
    """Time `_info` with its connection, and compare a hash poll with a get, both by the hub."""
    with open_filled_registry(bench, LISTED) as ours:
        hub = hub_name(ours.url)
        probes = [_probe_ms(ours.url) for _ in range(bench.plan.rounds)]
        poll_loads, get_loads = bench.alternate(
            [
                (ours.url, calls.hash_poll(str(hub)), READERS),
                (ours.url, calls.get(calls.spread_names(LISTED, 50), hub), READERS),
            ]
        )
    return [
        compare(
            "plexus",
            "connect, _info, done",
            probes,
            "ms",
            against=f"{INFO_MS:g} ms",
            bases=[INFO_MS] * len(probes),
            reach=Reach(at_most=1.0),
        ),
        compare_loads(
            "plexus",
            f"hash poll, {READERS} connections",
            poll_loads,
            against="get through the hub",
            bases=rates(get_loads),
            reach=Reach(at_least=0.9),
        ),
    ]


def _probe_ms(url: str) -> float:
    """Give the median time of a probe on a connection of its own, in milliseconds."""
    times = []
    for _ in range(PROBES):
        started = time.perf_counter()
        ask(url, INFO)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)
