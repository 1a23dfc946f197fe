"""Many watchers while writers change backends: is every event delivered, in order and soon?

`watchers.py URL WATCHERS SECONDS` is the load, a process of its own. It prints `begun` when all
watch and the first change is due, and at the end what it found as JSON. It looks only for the
revisions in the bytes that it reads, since there may be half a million events a second. Meanwhile
the scenario itself is one more client, which gets a backend again and again.
"""

import json
import re
import select
import selectors
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from itertools import cycle

from bench import Bench
from load import ANSWER_SECONDS, CHUNK, Client, encode, moved, timed_gets
from report import Row, Sample, compare
from servers import HERE, LOAD_CORE, open_process

CHANGES = 500
"""How many a second."""
WRITERS = 16
NAMES = 50
"""How many backends each writer changes in turn."""
MORE_SECONDS = 30
"""How long after the last change its events may come."""
STEP = 0.01
"""How exactly lateness is counted, in seconds."""
REVISION = re.compile(rb'"revision":(\d+)[,}]')


def measure_watchers(bench: Bench) -> Iterator[Row]:
    """Measure how late the events are, and how long another client's get takes."""
    watchers, seconds = bench.watchers, bench.watch_seconds
    script = [sys.executable, str(HERE / "watchers.py")]
    gets = []
    with bench.filled_registry(WRITERS * NAMES) as server:
        script += [server.url, str(watchers), str(seconds)]
        with open_process(script, LOAD_CORE) as load:
            assert load.stdout is not None
            load.stdout.readline()
            for taken in timed_gets(server.url, ANSWER_SECONDS):
                gets.append(taken * 1e3)
                if select.select([load.stdout], [], [], 0)[0]:
                    break
            found = json.loads(load.stdout.readline())
    found["get"] = statistics.quantiles(gets, n=100)[98]
    everyone = f"{watchers:,} of each change"
    for key, what, unit, against, base, least, most in (
        ("changes", "changes", "changes/s", "those due", CHANGES, 0.99, None),
        ("events", "events in order", "events", everyone, found["expected"], 1.0, None),
        ("p50", "an event is late, median", "s", "reach", 0.5, None, 1.0),
        ("p99", "an event is late, 99 %", "s", "reach", 2.0, None, 1.0),
        ("get", "get of another client, 99 %", "ms", "reach", 100.0, None, 1.0),
        ("busy", "the load itself works", "% of a core", "one core", 100.0, None, None),
    ):
        values = [Sample(found[key])]
        yield compare(what, values, unit, against, base, at_least=least, at_most=most)


class Connection:
    """A watcher or writer, and the last bytes that it read, which may be half a revision."""

    def __init__(self, url: str, selector: selectors.BaseSelector) -> None:
        self.client = Client(url)
        self.rest = b""
        self.seen = 0
        self.changes: Iterator[str] = iter(())
        selector.register(self.client.socket, selectors.EVENT_READ, self)

    def read(self) -> list[bytes]:
        """Read what has come, and return the revisions in it."""
        data = self.client.socket.recv(CHUNK)
        if not data:
            sys.exit("the registry closed a connection")
        data = self.rest + data
        end = data.rfind(b"}") + 1
        self.rest = data[end:]
        return REVISION.findall(data, 0, end)


def watch(url: str, count: int, seconds: int) -> dict[str, float]:
    """Write and watch; return changes a second, events, and their lateness in seconds."""
    selector = selectors.DefaultSelector()
    watchers = [Connection(url, selector) for _ in range(count)]
    writers = [Connection(url, selector) for _ in range(WRITERS)]
    first = 0
    for watcher in watchers:
        watcher.client.send(encode("registry.watch", {}))
        watcher.client.receive()
        first = json.loads(watcher.client.receive())["params"]["result"]["revision"]
    for number, writer in enumerate(writers):
        names = moved(range(number, WRITERS * NAMES, WRITERS))
        writer.changes = cycle([encode("registry.update", params) for params in names])
    revisions = [b"%d" % (first + 1 + number) for number in range(CHANGES * seconds)]
    sent: dict[int, float] = {}  # by revision
    arrived: list[tuple[float, int, int]] = []  # when, and from which event to which
    idle, at_work = deque(writers), dict[Connection, float]()
    print("begun", flush=True)
    began, used, made = time.monotonic(), time.process_time(), 0
    ends = began + seconds
    while True:
        now = time.monotonic()
        while idle and now < ends and made < (now - began) * CHANGES:
            writer = idle.popleft()
            writer.client.send(next(writer.changes))
            at_work[writer] = now
            made += 1
        if now > ends and not at_work and all(watcher.seen == made for watcher in watchers):
            break
        if now > ends + MORE_SECONDS:
            break
        for key, _ in selector.select(1 / CHANGES):
            connection: Connection = key.data
            found = connection.read()
            if not found:
                continue
            if connection in at_work:
                sent[int(found[0])] = at_work.pop(connection)
                idle.append(connection)
                continue
            last = connection.seen + len(found)
            if found != revisions[connection.seen : last]:
                sys.exit(f"after {connection.seen} events came the revisions {found[:50]!r}")
            arrived.append((time.monotonic(), connection.seen, last))
            connection.seen = last
    busy = (time.process_time() - used) / (time.monotonic() - began)
    times = [sent[revision] for revision in sorted(sent)]
    late = Counter[int]()  # in steps; an event that never came is as late as it can be
    for when, start, last in arrived:
        late.update(int((when - each) / STEP) for each in times[start:last])
    events = late.total()
    late[int(MORE_SECONDS / STEP)] += len(times) * count - events
    ordered = sorted(late.elements())
    return {
        "changes": len(times) / seconds,
        "events": events,
        "expected": len(times) * count,
        "p50": ordered[len(ordered) // 2] * STEP,
        "p99": ordered[len(ordered) * 99 // 100] * STEP,
        "busy": busy * 100,
    }


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
