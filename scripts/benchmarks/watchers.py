"""Many watchers while writers change backends: is every event delivered, in order and soon?

`watchers.py URL WATCHERS SECONDS` is the load, a process of its own. It prints `begun` when all
watch, `over` when all have seen every change, and then what it found as JSON. It looks only for the
revisions in the bytes that it reads, since there may be half a million events a second. Meanwhile
the scenario itself is one more client, which gets a backend again and again.
"""

import json
import re
import select
import statistics
import sys
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from itertools import accumulate, cycle

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
            load.stdout.readline()
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

    def __init__(self, url: str) -> None:
        self.client = Client(url)
        self.rest = b""
        self.seen = 0
        self.sent = 0.0
        self.changes: Iterator[str] = iter(())

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
    watchers = [Connection(url) for _ in range(count)]
    writers = [Connection(url) for _ in range(WRITERS)]
    first = 0
    for watcher in watchers:
        watcher.client.send(encode("registry.watch", {}))
        watcher.client.receive()
        first = 1 + json.loads(watcher.client.receive())["params"]["result"]["revision"]
    for number, writer in enumerate(writers):
        changes = moved(range(number, WRITERS * NAMES, WRITERS))
        writer.changes = cycle([encode("registry.update", params) for params in changes])
    revisions = [b"%d" % revision for revision in range(first, first + CHANGES * seconds)]
    sent: dict[bytes, float] = {}  # when each revision was asked for
    arrived: list[tuple[float, list[bytes]]] = []
    idle, made = deque(writers), 0
    poll = select.epoll()
    by_number = {each.client.socket.fileno(): each for each in (*watchers, *writers)}
    for number, connection in by_number.items():
        connection.client.socket.settimeout(None)  # else each call of it polls, too
        poll.register(number, select.EPOLLIN)
    print("begun", flush=True)
    began, used = time.monotonic(), time.process_time()
    ends = began + seconds
    while (now := time.monotonic()) < ends + MORE_SECONDS:
        while idle and now < ends and made < (now - began) * CHANGES:
            writer = idle.popleft()
            writer.client.send(next(writer.changes))
            writer.sent = now
            made += 1
        if now > ends and len(sent) == made and all(each.seen == made for each in watchers):
            break
        for number, _ in poll.poll(1 / CHANGES):
            connection = by_number[number]
            found = connection.read()
            if found and connection.sent:  # a writer
                sent[found[0]] = connection.sent
                idle.append(connection)
            elif found:
                arrived.append((time.monotonic(), found))
                begins, connection.seen = connection.seen, connection.seen + len(found)
                if found != revisions[begins : connection.seen]:
                    sys.exit(f"after {begins} events came the revisions {found[:50]!r}")
    busy = (time.process_time() - used) / (time.monotonic() - began)
    print("over", flush=True)
    late = Counter[int]()  # in steps; an event that never came is as late as it can be
    for when, found in arrived:
        late.update(int((when - sent[each]) / STEP) for each in found if each in sent)
    events, expected = late.total(), len(sent) * count
    late[int(MORE_SECONDS / STEP)] += expected - events
    steps = sorted(late)
    shares = list(accumulate(late[step] / expected for step in steps))
    return {
        "changes": len(sent) / seconds,
        "events": events,
        "expected": expected,
        "p50": steps[bisect_left(shares, 0.5)] * STEP,
        "p99": steps[bisect_left(shares, 0.99)] * STEP,
        "busy": busy * 100,
    }


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
