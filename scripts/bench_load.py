"""The load generator: a process of its own that reads jobs and answers with counts.

It runs apart from the measured server, on another core where there is one, and in C below the
WebSocket (picows), so that the server is the bottleneck. One job is one line of JSON on standard
input, one line on standard output answers it. On each connection one request is in flight: the
next leaves when the reply to the last is complete. Every frame of every reply is checked, because
a server that answers errors quickly would otherwise look fast.
"""

import asyncio
import itertools
import json
import re
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field

from bench_calls import SERIAL, Call
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

CHECKED_BYTES = 512
"""Replies are checked this far from either end; a list of 1,000 is long and its type is not."""

SHUTDOWN_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to drive, how hard and for how long."""

    url: str
    call: Call
    connections: int
    warm_up: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one job came to; with a `failure` the figures mean nothing."""

    rate: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    failure: str | None = None


@dataclass(slots=True)
class Drive:
    """What the connections of one job share."""

    frames: "itertools.cycle[str]"
    patterns: list[re.Pattern[bytes]]
    latencies: list[float] = field(default_factory=list)
    sending: bool = True
    failure: str | None = None
    failed: asyncio.Event = field(default_factory=asyncio.Event)

    def fail(self, why: str) -> None:
        """Keep the first failure and stop everything."""
        self.failure = self.failure or why
        self.sending = False
        self.failed.set()


class Caller(WSListener):
    """One connection: sends a call, checks its reply, sends the next."""

    def __init__(self, drive: Drive, serials: "itertools.count[int]") -> None:
        self.drive = drive
        self.serials = serials
        self.arrived = 0
        self.sent_at = 0.0
        self.idle = asyncio.Event()

    def send_next(self, transport: WSTransport) -> None:
        frame = next(self.drive.frames)
        if SERIAL in frame:
            frame = frame.replace(SERIAL, str(next(self.serials)))
        self.sent_at = time.perf_counter()
        transport.send(WSMsgType.TEXT, frame.encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        drive = self.drive
        payload = frame.get_payload_as_memoryview()
        pattern = drive.patterns[self.arrived]
        if not (
            pattern.search(payload[:CHECKED_BYTES]) or pattern.search(payload[-CHECKED_BYTES:])
        ):
            drive.fail(f"unexpected reply: {bytes(payload[:CHECKED_BYTES])!r}")
        self.arrived += 1
        if self.arrived < len(drive.patterns):
            return
        self.arrived = 0
        drive.latencies.append(time.perf_counter() - self.sent_at)
        if drive.sending:
            self.send_next(transport)
        else:
            self.idle.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        if not self.idle.is_set():
            self.drive.fail("the server closed a connection")
            self.idle.set()


async def run_job(job: Job, serials: "itertools.count[int]") -> Load:
    """Open the connections, drive them for the time asked, and close them."""
    patterns = [re.compile(reply.encode()) for reply in job.call.replies]
    drive = Drive(itertools.cycle(job.call.frames), patterns)
    transports: list[tuple[WSTransport, Caller]] = []
    try:
        for _ in range(job.connections):
            transport, caller = await ws_connect(lambda: Caller(drive, serials), job.url)
            assert isinstance(caller, Caller)
            transports.append((transport, caller))
        for transport, caller in transports:
            caller.send_next(transport)
        await _sleep_unless_failed(drive, job.warm_up)
        first, started = len(drive.latencies), time.perf_counter()
        await _sleep_unless_failed(drive, job.seconds)
        last, seconds = len(drive.latencies), time.perf_counter() - started
        drive.sending = False
        async with asyncio.timeout(SHUTDOWN_SECONDS):
            for _, caller in transports:
                await caller.idle.wait()
    except (OSError, WSError, TimeoutError) as error:
        return Load(failure=f"{type(error).__name__}: {error}")
    finally:
        for transport, caller in transports:
            caller.idle.set()
            transport.disconnect()
    if drive.failure is None and last - first < 2:
        drive.fail(f"fewer than 2 replies in {job.seconds} s")
    if drive.failure is not None:
        return Load(failure=drive.failure)
    ranks = statistics.quantiles(drive.latencies[first:last], n=100)
    return Load(rate=(last - first) / seconds, p50_ms=ranks[49] * 1e3, p99_ms=ranks[98] * 1e3)


async def _sleep_unless_failed(drive: Drive, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await drive.failed.wait()
    except TimeoutError:
        return


def decode_job(line: str) -> Job:
    """Read back what `encode_job` wrote."""
    members = json.loads(line)
    call = Call(*(tuple(members["call"][key]) for key in ("frames", "replies")))
    return Job(**{**members, "call": call})


def encode_job(job: Job) -> str:
    """Write a job as one line."""
    return json.dumps(asdict(job)) + "\n"


def main() -> None:
    serials = itertools.count()
    for line in sys.stdin:
        print(json.dumps(asdict(asyncio.run(run_job(decode_job(line), serials)))), flush=True)


if __name__ == "__main__":
    main()
