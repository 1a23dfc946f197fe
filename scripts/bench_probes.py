"""What it costs to probe many backends: the part of a core, and the sockets that are open."""

import os
import time
from pathlib import Path

from bench_plan import Bench
from bench_processes import open_hub, open_registry
from bench_report import Figure, Reach, compare

HUB = "bench-hub"
INTERVAL = 15.0
"""The default."""

ADDRESSES = 200
SETTLE_SECONDS = 20.0
LOOK_SECONDS = 0.02
SOCKETS = 64
CORE = 0.05


def measure_probes(bench: Bench) -> list[Figure]:
    """Let the registry probe, after it has seen everyone once, and weigh the work."""
    count = bench.plan.probed
    folder = bench.folder / "probes"
    folder.mkdir()
    with open_hub(HUB, bench.cores) as hub:
        port = int(hub.url.rpartition(":")[2])
        (folder / "backends.toml").write_text(
            "\n".join(entry(index, port) for index in range(count))
        )
        with open_registry(folder, bench.cores, probe_interval=INTERVAL) as server:
            time.sleep(SETTLE_SECONDS)
            shares, sockets = [], []
            for _ in range(bench.plan.rounds):
                share, seen = watch(server.process_id, INTERVAL / 3)
                shares.append(share)
                sockets += seen
            # Its listener and its own wake-up are there all the time.
            most = max(sockets) - min(sockets)
    what = f"{count:,} backends every {INTERVAL:g} s"
    return [
        compare(
            "probes",
            what,
            [share * 100 for share in shares],
            "% of a core",
            against="one core",
            bases=[100.0] * len(shares),
            reach=Reach(at_most=CORE),
        ),
        compare(
            "probes",
            f"open sockets, {what}",
            [float(most)],
            "sockets",
            against=f"{SOCKETS} slots",
            bases=[float(SOCKETS)],
            reach=Reach(at_most=1.0),
        ),
    ]


def entry(index: int, port: int) -> str:
    """State a backend at a loopback address that it shares with few others."""
    return (
        f'[[backend]]\nname = "probed-{index}"\nhost = "127.0.{index % ADDRESSES}.1"\n'
        f'port = {port}\nnamespace = "{HUB}"\n'
    )


def watch(process_id: int, seconds: float) -> tuple[float, list[int]]:
    """Watch a process for a time: the part of a core that it takes, and its open sockets."""
    sockets = []
    began, used = time.monotonic(), cpu_seconds(process_id)
    while (passed := time.monotonic() - began) < seconds:
        sockets.append(open_sockets(process_id))
        time.sleep(LOOK_SECONDS)
    return (cpu_seconds(process_id) - used) / passed, sockets


def cpu_seconds(process_id: int) -> float:
    """Read how long a process has run on a core, in its own code and in the system's."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_sockets(process_id: int) -> int:
    """Count the sockets that a process has open."""
    count = 0
    for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
        try:
            count += str(descriptor.readlink()).startswith("socket:")
        except FileNotFoundError:  # closed while we looked
            continue
    return count
