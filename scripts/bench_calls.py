"""The calls that the bench makes, in both ways of the protocol.

A direct call is one frame there and one frame back. A Plexus call goes through the hub and comes
back as three frames: the acknowledgement, the data and `done`; it counts as complete at `done`.
"""

import json
from dataclasses import dataclass, replace

SERIAL = "@serial@"
"""Stands in a frame for a number that the load generator never uses twice."""

PORT = 4444

_REGISTERED = r'"type":\s*"backend_registered"'


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


def backend_name(number: int) -> str:
    """Name a stored backend; all names have one length, so that all replies have one size."""
    return f"b-{number:06}"


def spread_names(stored: int, count: int) -> list[str]:
    """Pick up to `count` names spread evenly over those stored."""
    return [backend_name(number) for number in range(0, stored, max(1, stored // count))][:count]


def get(names: list[str], hub: str | None = None) -> Call:
    """Find one backend, each name in turn."""
    return _call("registry.get", [{"name": name} for name in names], r'"backend":\s*\{', hub)


def ping(names: list[str], hub: str | None = None) -> Call:
    """Report one backend alive, each name in turn."""
    return _call("registry.ping", [{"name": name} for name in names], r'"success":\s*true', hub)


def list_all(hub: str | None = None) -> Call:
    """List every active backend."""
    return _call("registry.list", [{}], r'"backends":\s*\[', hub)


def hash_poll(hub: str) -> Call:
    """Ask for the hub's hash, as a web page does every few seconds."""
    return _call(f"{hub}.hash", [{}], r'"event":\s*"hash"', hub)


def register_new(prefix: str, hub: str | None = None) -> Call:
    """Register a name that was never seen before, each time another."""
    params = {"name": f"{prefix}-{SERIAL}", "host": "127.0.0.1", "port": PORT}
    return _call("registry.register", [params], _REGISTERED, hub)


def register_moved(names: list[str]) -> Call:
    """Move stored backends to another port: a durable change that leaves their number alone."""
    moves = [
        {"name": name, "host": "127.0.0.1", "port": port, "replace": True}
        for port in (PORT + 1, PORT + 2)
        for name in names
    ]
    return _call("registry.register", moves, _REGISTERED, None)


def register_frames(names: list[str], hub: str | None) -> list[str]:
    """Encode one registration of each name, a frame each."""
    return [_frame("registry.register", _address(name), hub) for name in names]


def register_batches(stored: int, *, size: int = 100) -> list[str]:
    """Encode the registration of `stored` backends as JSON-RPC batches of `size`."""
    frames = register_frames([backend_name(number) for number in range(stored)], None)
    return [f"[{','.join(frames[start : start + size])}]" for start in range(0, stored, size)]


def _address(name: str) -> dict[str, object]:
    return {"name": name, "host": "127.0.0.1", "port": PORT}


def _call(method: str, params: list[dict[str, object]], content: str, hub: str | None) -> Call:
    frames = tuple(_frame(method, each, hub) for each in params)
    if hub is None:
        return Call(frames, (content,))
    return Call(frames, (r'"result":\s*\d', content, r'"type":\s*"done"'))


def _frame(method: str, params: dict[str, object], hub: str | None) -> str:
    if hub is not None:
        method, params = f"{hub}.call", {"method": method, "params": params}
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(request, separators=(",", ":"))
