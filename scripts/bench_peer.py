"""Drive another server of the same protocol beside ours.

Both hold the same backends, registered the same way, and both are spoken to through their Plexus
hub where both have one, directly otherwise. Only what goes over the socket is compared: a peer's
process is not ours to pin or to weigh, and a peer that already holds backends has more to list.
"""

import os

import bench_calls as calls
from bench_client import hub_name, tell
from bench_plan import Bench, compare_loads, connections_text, rates
from bench_processes import open_registry
from bench_report import Figure
from bench_scenarios import LISTED, READERS, new_folder


def measure_peer(bench: Bench, peer_url: str) -> list[Figure]:
    """Compare get, list, ping and register with those of the server at `peer_url`."""
    # A name of this run's own: what an earlier run left in the peer must not be in the way.
    prefix = f"bench-{os.getpid()}"
    names = [f"{prefix}-stored-{number:06}" for number in range(LISTED)]
    with open_registry(new_folder(bench), bench.cores) as ours:
        urls = (ours.url, peer_url)
        hubs = tuple(hub_name(url) for url in urls)
        if None in hubs:
            hubs = (None, None)
        for url, hub in zip(urls, hubs, strict=True):
            tell(url, calls.register_frames(names, hub))
        way = "directly" if None in hubs else "as Plexus"
        pairs = [
            ("get", [calls.get(names[:50], hub) for hub in hubs]),
            ("list", [calls.list_all(hub) for hub in hubs]),
            ("ping", [calls.ping(names[:50], hub) for hub in hubs]),
            ("register", [calls.register_new(f"{prefix}-new", hub) for hub in hubs]),
        ]
        figures = []
        for what, (ours_call, peer_call) in pairs:
            for connections in (1, READERS):
                ours_loads, peer_loads = bench.alternate(
                    [(ours.url, ours_call, connections), (peer_url, peer_call, connections)]
                )
                figure = compare_loads(
                    "peer",
                    f"{what} {way}, {connections_text(connections)}",
                    ours_loads,
                    against="peer",
                    bases=rates(peer_loads),
                )
                figures.append(figure)
    return figures
