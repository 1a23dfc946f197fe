"""The calls that the bench makes, and the load that they are to a server.

A direct call is one frame there and one frame back. A Plexus call goes through the hub and comes
back as three frames: the acknowledgement, the data and `done`; it counts as complete at `done`.

The load is made in C below the WebSocket (picows), so that the server is the bottleneck. On each
connection one request is in flight: the next leaves when the reply to the last is complete. Every
frame of every reply is checked, because a server that answers errors quickly would look fast.
"""

import asyncio
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

SERIAL = "@serial@"
"""Stands in a frame for a number that is never used twice."""
PORT = 4444
CHECKED_BYTES = 512
"""Replies are checked this far from either end; a list of 1,000 is long and its type is not."""
CONNECTIONS = 32
REPLY_SECONDS = 60
INFO = '{"jsonrpc":"2.0","id":1,"method":"_info","params":null}'
REGISTERED = r'"type":\s*"backend_registered"'

T = TypeVar("T")
_serials = itertools.count()


@dataclass(frozen=True, slots=True)
class Call:
    """What to send and what to expect.

    Attributes:
        frames: Sent in turn, one for each call, from the first again after the last.
        replies: One regular expression for each frame of a reply, in order of arrival.
    """

    frames: tuple[str, ...]
    replies: tuple[str, ...]

    def to_bare_server(self) -> "Call":
        """Give the same requests for a server that answers each with one constant."""
        return replace(self, replies=("",))


@dataclass(frozen=True, slots=True)
class Load:
    """What driving a server came to."""

    rate: float
    p50_ms: float
    p99_ms: float


def backend_name(number: int) -> str:
    """Name a stored backend; all names have one length, so that all replies have one size."""
    return f"b-{number:06}"


def spread_names(stored: int, count: int) -> list[str]:
    """Pick up to `count` names spread evenly over those stored."""
    return [backend_name(number) for number in range(0, stored, max(1, stored // count))][:count]


def get(names: Sequence[str], hub: str | None = None) -> Call:
    """Find one backend, each name in turn."""
    return make_call("registry.get", [{"name": name} for name in names], r'"backend":\s*\{', hub)


def ping(names: Sequence[str], hub: str | None = None) -> Call:
    """Report one backend alive, each name in turn."""
    return make_call("registry.ping", [{"name": name} for name in names], r'"success":\s*true', hub)


def list_all(hub: str | None = None) -> Call:
    """List every active backend."""
    return make_call("registry.list", [{}], r'"backends":\s*\[', hub)


def register_new(prefix: str, hub: str | None = None) -> Call:
    """Register a name that was never seen before, each time another."""
    return make_call("registry.register", [_address(f"{prefix}-{SERIAL}")], REGISTERED, hub)


def register_moved(names: Sequence[str]) -> Call:
    """Move stored backends to another port: a durable change that leaves their number alone."""
    moves = [
        {**_address(name), "port": port, "replace": True}
        for port in (PORT + 1, PORT + 2)
        for name in names
    ]
    return make_call("registry.register", moves, REGISTERED)


def register_frames(names: Sequence[str], hub: str | None = None) -> list[str]:
    """Encode one registration of each name, a frame each."""
    return [encode("registry.register", _address(name), hub) for name in names]


def register_batches(stored: int, *, size: int = 100) -> list[str]:
    """Encode the registration of `stored` backends as JSON-RPC batches of `size`."""
    frames = register_frames([backend_name(number) for number in range(stored)])
    return [f"[{','.join(frames[start : start + size])}]" for start in range(0, stored, size)]


def make_call(
    method: str, params: Sequence[dict[str, object]], content: str, hub: str | None = None
) -> Call:
    """Make a call, directly or through a hub, whose content matches a regular expression."""
    frames = tuple(encode(method, each, hub) for each in params)
    return Call(frames, (content,) if hub is None else (r'"result":\s*\d', content, '"done"'))


def encode(method: str, params: object, hub: str | None = None) -> str:
    """Encode a request, directly or through a hub."""
    if hub is not None:
        method, params = f"{hub}.call", {"method": method, "params": params}
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(request, separators=(",", ":"))


def _address(name: str) -> dict[str, object]:
    return {"name": name, "host": "127.0.0.1", "port": PORT}


class Mailbox(WSListener):
    """Queues what arrives; None says that the server has gone."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[str | None] = asyncio.Queue()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        self.frames.put_nowait(frame.get_payload_as_utf8_text())

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        self.frames.put_nowait(None)


def ask(url: str, frame: str) -> list[str]:
    """Send one request and return the frames of its reply."""
    return asyncio.run(_exchange(url, [frame]))


def tell(url: str, frames: Sequence[str]) -> None:
    """Send many requests over several connections, and check that none is answered by an error."""

    async def share() -> list[list[str]]:
        shares = [frames[start::CONNECTIONS] for start in range(min(CONNECTIONS, len(frames)))]
        return await asyncio.gather(*(_exchange(url, each) for each in shares))

    for text in itertools.chain(*asyncio.run(share())):
        if '"error"' in text:
            raise RuntimeError(f"{url} refused a request: {text[:300]}")


def while_connected(url: str, count: int, measure: Callable[[], T]) -> T:
    """Open idle connections and return what `measure` finds while they are open."""

    async def hold() -> T:
        transports: list[WSTransport] = []
        try:
            while len(transports) < count:
                transports.append((await ws_connect(Mailbox, url))[0])
            return measure()
        finally:
            for transport in transports:
                transport.disconnect()

    return asyncio.run(hold())


def hub_name(url: str) -> str | None:
    """Ask a server for its Plexus hub; None when it does not speak that way."""
    for text in ask(url, INFO):
        item = json.loads(text).get("params", {}).get("result", {})
        if item.get("type") == "data":
            return str(item["content"]["backend"])
    return None


async def _exchange(url: str, frames: Sequence[str]) -> list[str]:
    """Send each frame when the reply to the one before is complete."""
    transport, mailbox = await ws_connect(Mailbox, url)
    assert isinstance(mailbox, Mailbox)
    replies: list[str] = []
    try:
        for frame in frames:
            transport.send(WSMsgType.TEXT, frame.encode())
            async with asyncio.timeout(REPLY_SECONDS):
                more_follows = True
                while more_follows:
                    text = await mailbox.frames.get()
                    if text is None:
                        raise RuntimeError(f"{url} closed the connection")
                    replies.append(text)
                    more_follows = _is_part(text)
    finally:
        transport.disconnect()
    return replies


def _is_part(text: str) -> bool:
    """Tell whether a frame is a Plexus acknowledgement or an item before the last."""
    message = json.loads(text)
    if not isinstance(message, dict):
        return False
    if "params" in message:
        return message["params"]["result"]["type"] in ("data", "progress")
    return isinstance(message.get("result"), int)


@dataclass(slots=True)
class Drive:
    """What the connections under load share; `failed` holds what went wrong first."""

    frames: Iterator[str]
    patterns: list[re.Pattern[bytes]]
    failed: "asyncio.Future[None]"
    latencies: list[float] = field(default_factory=list)
    is_sending: bool = True

    def fail(self, why: str) -> None:
        """Stop everything."""
        self.is_sending = False
        if not self.failed.done():
            self.failed.set_exception(RuntimeError(why))


class Caller(WSListener):
    """One connection: sends a call, checks its reply, sends the next."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.arrived = 0
        self.sent_at = 0.0
        self.idle = asyncio.Event()

    def send_next(self, transport: WSTransport) -> None:
        frame = next(self.drive.frames)
        if SERIAL in frame:
            frame = frame.replace(SERIAL, str(next(_serials)))
        self.sent_at = time.perf_counter()
        transport.send(WSMsgType.TEXT, frame.encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        drive, payload = self.drive, frame.get_payload_as_memoryview()
        expected = drive.patterns[self.arrived]
        ends = (payload[:CHECKED_BYTES], payload[-CHECKED_BYTES:])
        if not any(expected.search(end) for end in ends):
            drive.fail(f"unexpected reply: {bytes(ends[0])!r}")
        self.arrived = (self.arrived + 1) % len(drive.patterns)
        if self.arrived:
            return
        drive.latencies.append(time.perf_counter() - self.sent_at)
        if drive.is_sending:
            self.send_next(transport)
        else:
            self.idle.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        if not self.idle.is_set():
            self.drive.fail("the server closed a connection")
            self.idle.set()


async def _drive(url: str, call: Call, connections: int, warm_up: float, seconds: float) -> Load:
    patterns = [re.compile(reply.encode()) for reply in call.replies]
    failed = asyncio.get_running_loop().create_future()
    drive = Drive(itertools.cycle(call.frames), patterns, failed)
    async with _callers(url, connections, drive) as callers:
        for transport, caller in callers:
            caller.send_next(transport)
        await asyncio.wait([failed], timeout=warm_up)
        first, started = len(drive.latencies), time.perf_counter()
        await asyncio.wait([failed], timeout=seconds)
        last, taken = len(drive.latencies), time.perf_counter() - started
        drive.is_sending = False
        async with asyncio.timeout(REPLY_SECONDS):
            for _, caller in callers:
                await caller.idle.wait()
    if last - first < 2:
        drive.fail(f"fewer than 2 replies in {seconds} s")
    if failed.done():
        failed.result()
    ranks = statistics.quantiles(drive.latencies[first:last], n=100)
    return Load((last - first) / taken, ranks[49] * 1e3, ranks[98] * 1e3)


@asynccontextmanager
async def _callers(url: str, count: int, drive: Drive):
    """Open connections, and close them at the end."""
    opened: list[tuple[WSTransport, Caller]] = []
    try:
        while len(opened) < count:
            opened.append(await ws_connect(lambda: Caller(drive), url))
        yield opened
    finally:
        for transport, caller in opened:
            caller.idle.set()
            transport.disconnect()


def drive(url: str, call: Call, *, connections: int, warm_up: float, seconds: float) -> Load:
    """Load one server for a time, and return what it managed."""
    try:
        return asyncio.run(_drive(url, call, connections, warm_up, seconds))
    except (OSError, WSError, RuntimeError) as error:
        raise RuntimeError(f"{url}: {error or type(error).__name__}") from error
