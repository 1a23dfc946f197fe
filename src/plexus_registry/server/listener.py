"""The port: bound, and accepting, also while the process has no room for more connections."""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING, TypeVar

import trio

from plexus_registry.rules.errors import StartError
from plexus_registry.server.access_policy import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

Stream = TypeVar("Stream", bound=trio.abc.AsyncResource)

PAUSE_SECONDS = 0.25
OTHER_FILES = 32
"""What a registry has open beside its connections: database, config file, Trio's own, and some."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Bind the port; 0 picks a free one.

    Raises:
        StartError: The port is in use, or the host is not one of this machine's.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} on {host} is in use: stop what listens there"
            " (another registry?), or choose another --port",
            errno.EACCES: f"port {port} needs privileges: choose a --port above 1023",
        }
        reason = reasons.get(error.errno or 0, f"cannot listen on {host}:{port}: {error}")
        raise StartError(reason) from error
    if port == 0:
        # A name with several addresses would get as many different ports: keep one.
        for surplus in listeners[1:]:
            await surplus.aclose()
        del listeners[1:]
    return listeners


def is_reachable(listeners: list[trio.SocketListener]) -> bool:
    """Whether anybody but this machine can connect."""
    return not all(is_loopback(str(each.socket.getsockname()[0])) for each in listeners)


def url_of(listener: trio.SocketListener, *, is_secure: bool = False) -> str:
    """Where clients connect to a listener."""
    scheme = "wss" if is_secure else "ws"
    host, port = listener.socket.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def open_files_for(connections: int) -> int:
    """Raise the number of files that may be open as far as it goes and is needed.

    Returns:
        How many connections there is room for, at most as many as asked for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(0, min(connections, soft - OTHER_FILES))


async def accept_forever(
    listener: trio.abc.Listener[Stream],
    receive: Callable[[Stream], object],
    report_fault: Callable[[str, str], None],
) -> None:
    """Accept connections, and pause while the system has no room for more; closes the listener.

    Args:
        listener: Where they come from.
        receive: Takes each one, and does not wait.
        report_fault: Is told, with the kind, when there is no room.
    """
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                report_fault(
                    "files",
                    f"no room for more connections, new ones have to wait ({error.strerror}):"
                    " close some, or raise `ulimit -n`",
                )
                await trio.sleep(PAUSE_SECONDS)
            else:
                receive(stream)
