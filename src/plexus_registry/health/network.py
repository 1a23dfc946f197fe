"""Which addresses may be probed, and how probes reach them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, Protocol, TypeAlias

import trio

from plexus_registry.rules.errors import ConfigError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

CACHED = 16 * 1024
RECEIVE_BYTES = 16 * 1024
RESOLVERS = 8
"""The most host names that are looked up at once, so that name servers that hang hold only as many
threads."""

Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]
"""The networks that may be probed; an empty tuple allows all of them."""

_LINK_LOCAL = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"))
_MAPPED = IPv6Network("::ffff:0:0/96")

# The IPv6 networks whose addresses contain an IPv4 address, and the number of bits after it. The
# system or a gateway forwards packets for such an address to the IPv4 address.
_EMBEDDING = (
    (_MAPPED, 0),  # RFC 4291, section 2.5.5.2
    (IPv6Network("::/96"), 0),  # RFC 4291, section 2.5.5.1
    (IPv6Network("::ffff:0:0:0/96"), 0),  # RFC 2765, section 2.1
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64: RFC 6052, section 2.1
    (IPv6Network("64:ff9b:1::/48"), 0),  # NAT64 of a site: RFC 8215
    (IPv6Network("2002::/16"), 80),  # 6to4: RFC 3056, section 2
)


def parse_networks(text: str) -> Networks:
    """Parse networks such as `10.0.0.0/8,fd00::/8`, separated by commas; an empty text means all.

    Raises:
        ConfigError: A part of the text is not a network.
    """
    networks = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            networks.append(ip_network(part))
        except ValueError as error:
            raise ConfigError(
                "--probe-networks", None, f"{shown(part)} is no network such as 10.0.0.0/8: {error}"
            ) from error
    return tuple(networks)


@lru_cache(maxsize=CACHED)
def refusal(address: str, allowed: Networks) -> str | None:
    """Return why a numeric address must not be probed; None if it may.

    Link-local addresses are never probed, nor are IPv6 addresses that contain one. Above all, a
    cloud provider's own services listen there, and no caller may make the registry talk to them.
    """
    numeric: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    for network, bits_after in _EMBEDDING:
        if numeric in network:
            embedded = IPv4Address(int(numeric) >> bits_after & 0xFFFFFFFF)
            if _is_link_local(embedded):
                return f"{numeric} embeds {embedded}, which is link-local: it is never probed"
            if network is _MAPPED:
                numeric = embedded
    if _is_link_local(numeric):
        return f"{numeric} is link-local: such addresses are never probed"
    if allowed and not any(numeric in network for network in allowed):
        return f"{numeric} is in none of the networks that are probed"
    return None


def _is_link_local(address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in _LINK_LOCAL)


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """A numeric address to connect to; the family is one such as `AF_INET`."""

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
