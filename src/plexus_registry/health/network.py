"""How probes reach hubs, and descriptions of what failed."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

RECEIVE_BYTES = 16 * 1024
RESOLVERS = 8
"""The most host names that are looked up at once, so that name servers that hang hold only as many
threads."""

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """A numeric address to connect to.

    Attributes:
        family: The address family, such as `AF_INET`.
        host: The address as text, such as `127.0.0.1`.
        port: The port.
    """

    family: int
    host: str
    port: int


class Network(Protocol):
    """How probes reach hubs."""

    async def resolve(self, host: str, port: int, begun: Callable[[], None]) -> list[SocketAddress]:
        """Look up a host name; raises OSError.

        Args:
            host: The name.
            port: The port of the returned addresses.
            begun: Called when the look-up begins, from any thread. A timeout before that was
                caused by look-ups of other names.
        """
        ...

    async def connect(self, address: SocketAddress) -> trio.abc.Stream:
        """Connect over TCP; raises OSError."""
        ...


class RealNetwork:
    """The network of this machine."""

    def __init__(self) -> None:
        self._resolvers = trio.CapacityLimiter(RESOLVERS)

    async def resolve(self, host: str, port: int, begun: Callable[[], None]) -> list[SocketAddress]:
        """Look up a host name in a thread, which is abandoned on a timeout."""

        def look_up() -> list[SocketAddress]:
            begun()
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [SocketAddress(family, str(where[0]), port) for family, _, _, _, where in found]

        return await trio.to_thread.run_sync(
            look_up, abandon_on_cancel=True, limiter=self._resolvers
        )

    async def connect(self, address: SocketAddress) -> trio.abc.Stream:
        """Connect over TCP."""
        connection = trio.socket.socket(address.family, socket.SOCK_STREAM)
        try:
            await connection.connect((address.host, address.port))
        except BaseException:
            connection.close()
            raise
        return Connection(connection)


class Connection(trio.abc.Stream):
    """A TCP connection for one task, without the checks and options of Trio's own stream.

    They take more time than all the rest of a probe in Python.
    """

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._connection = connection

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all data."""
        sent = await self._connection.send(data)
        while sent < len(data):
            sent += await self._connection.send(data[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be sent."""
        await trio.lowlevel.wait_writable(self._connection.fileno())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for data and return it; the end of the stream is empty."""
        return await self._connection.recv(max_bytes or RECEIVE_BYTES)

    def close(self) -> None:
        """Close the connection without waiting."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close the connection."""
        self.close()
        await trio.lowlevel.checkpoint()


def is_shortage(error: Exception) -> bool:
    """Whether an error means that this machine ran out of something, such as descriptors."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def too_late(timeout_seconds: float) -> str:
    """Describe a timeout."""
    return f"no answer within {timeout_seconds:g} s"


def describe(error: Exception) -> str:
    """Describe an error in the system's own words, without the exceptions around it."""
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    match cause:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {cause.verify_message}"
        case ssl.SSLError():
            return f"no TLS: {(cause.reason or str(cause)).lower().replace('_', ' ')}"
        case socket.gaierror():
            return (cause.strerror or str(cause)).lower()
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case None:
            return "the connection was lost"
        case _:
            return str(cause) or "the connection was lost"
