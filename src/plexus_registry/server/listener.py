"""The port: bound, with its certificate, and accepting connections up to the limits."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import ssl
import stat
import sys
from collections import Counter
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from plexus_registry.rules.errors import StartError
from plexus_registry.server.access_policy import Refusal, address_of, is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from plexus_registry.settings import Settings

log = logging.getLogger(__name__)

Stream = TypeVar("Stream", bound=trio.abc.AsyncResource)

PAUSE_SECONDS = 0.25
_ESTABLISHED = b"\x01"
"""Source: Linux, include/net/tcp_states.h."""
OTHER_FILES = 32
"""Files that a registry needs beside its connections: database, config file, Trio's own, spare."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_NO_TLS = (
    "listening on %s without TLS: anybody on the network can read the token; give --tls-cert and"
    " --tls-key, or listen on 127.0.0.1 behind a proxy that speaks TLS"
)
_EXPOSED = (
    "on {host}, anybody on the network could register and delete: set a token (--token-file or"
    " REGISTRY_TOKEN), listen on 127.0.0.1, or pass --insecure"
)
_RETRY = (("Retry-After", "5"),)
_IPV6_PREFIX = 64


class Certificate:
    """The certificate of the port and its key, read from PEM files.

    Attributes:
        context: The TLS context of new connections; open connections keep theirs.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self.context = self._read()

    def reload(self) -> None:
        """Read the files again, for new connections.

        Raises:
            StartError: The files cannot be read or used; the old context stays.
        """
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        for path in (self._cert, self._key):
            try:
                if not stat.S_ISREG(path.stat().st_mode):
                    raise StartError(f"cannot read {path}: it is not a plain file")
                path.read_bytes()
            except OSError as error:
                raise StartError(
                    f"cannot read {path}, named by --tls-cert or --tls-key: {error.strerror}"
                ) from error
        try:
            # With an empty password, an encrypted key is an error and not a prompt on the terminal.
            context.load_cert_chain(self._cert, self._key, password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error) or "it is not a PEM file"
            raise StartError(
                f"cannot use the certificate {self._cert} with the key {self._key}:"
                f" {str(reason).lower().replace('_', ' ')}; name a PEM certificate and its key,"
                " without a password"
            ) from error
        return context


def open_certificate(settings: Settings) -> Certificate | None:
    """Read the certificate that the settings name, if they name one; it may contain its key.

    Raises:
        StartError: The certificate cannot be used.
    """
    cert = settings.tls_cert
    return None if cert is None else Certificate(cert, settings.tls_key or cert)


@asynccontextmanager
async def open_port(settings: Settings) -> AsyncIterator[list[trio.SocketListener]]:
    """Bind the port, and close it at the end. Port 0 is any free port.

    Raises:
        StartError: The port cannot be bound, or other machines can reach it and there is no token.
    """
    listeners = await _bind(settings.host, settings.port)
    try:
        addresses = [str(each.socket.getsockname()[0]) for each in listeners]
        if not all(map(is_loopback, addresses)):
            if not (settings.token or settings.insecure):
                raise StartError(_EXPOSED.format(host=settings.host))
            if settings.token and not settings.tls_cert:
                log.warning(_NO_TLS, settings.host)
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


async def _bind(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} on {host} is in use: stop the program that listens"
            " there (another registry?), or choose another --port",
            errno.EACCES: f"port {port} needs privileges: choose a --port above 1023",
        }
        reason = reasons.get(error.errno or 0, f"cannot listen on {host}:{port}: {error}")
        raise StartError(reason) from error
    if port == 0:
        # Each address of the host got a free port of its own: keep one.
        for surplus in listeners[1:]:
            await surplus.aclose()
        del listeners[1:]
    return listeners


def url_of(listener: trio.SocketListener, *, is_secure: bool) -> str:
    """Return the URL at which clients reach a listener."""
    scheme = "wss" if is_secure else "ws"
    host, port = listener.socket.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def raise_open_files(connections: int) -> int:
    """Raise this process's limit of open files as far as needed and allowed.

    Returns:
        How many connections fit in, at least 1; a warning is logged if they are fewer than asked.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    room = max(0, soft - OTHER_FILES)
    log.warning(
        "there is room for only %d connections, but --max-connections is %d: raise the hard limit"
        " of `ulimit -n`, or pass --max-connections %d",
        room,
        connections,
        room,
    )
    return max(1, room)


async def accept_forever(
    listener: trio.abc.Listener[Stream],
    start: Callable[[Stream], object],
    report_fault: Callable[[str, str], None],
) -> None:
    """Accept connections until cancelled, and close the listener.

    `start` starts to serve one, without waiting. If the system has no room for more, `report_fault`
    is called with the name and the description of the fault, and accepting pauses.
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
                start(stream)


class Endpoints(NamedTuple):
    """The two ends of a connection: address and port of the peer, and the local address."""

    peer: str
    port: int
    local: str

    def __str__(self) -> str:
        return f"{self.peer} port {self.port}"


def endpoints_of(stream: trio.abc.Stream) -> Endpoints:
    """Return the endpoints of a stream; one that is not a socket counts as a local connection.

    Raises:
        OSError: The peer has left.
    """
    if not isinstance(stream, trio.SocketStream):
        return Endpoints("127.0.0.1", 0, "127.0.0.1")
    peer, port = stream.socket.getpeername()[:2]
    return Endpoints(peer, port, stream.socket.getsockname()[0])


class ConnectionLimits:
    """Limits the number of connections, in all and from each address.

    All programs of this machine share the loopback addresses, so only the total limits these.

    Attributes:
        count: The number of open connections.
    """

    def __init__(self, *, most: int, most_from_one: int) -> None:
        self._most = most
        self._most_from_one = most_from_one
        self._by_group: Counter[str] = Counter()
        self.count = 0

    def enter(self, address: str) -> Refusal | None:
        """Count a new connection, or refuse it. Call `leave` only if it was not refused."""
        if self.count >= self._most:
            return Refusal(
                status=503,
                counted_as="connections",
                text=f"This registry has {self._most} connections, which is its limit: try again"
                " later, or ask its operator to raise --max-connections.",
                log=f"refused a connection: {self._most} are open; if you need more, start the"
                " registry with a larger --max-connections",
                fields=_RETRY,
            )
        group = group_of(address)
        if group is not None:
            if self._by_group[group] >= self._most_from_one:
                return Refusal(
                    status=503,
                    counted_as="connections_per_address",
                    text=f"Your address already has {self._most_from_one} connections, which is"
                    " the limit: close some, or ask the operator of the registry to raise"
                    " --max-connections-per-address.",
                    log=f"refused a connection from {group}, which has {self._most_from_one}; if"
                    " it needs more, start the registry with a larger"
                    " --max-connections-per-address",
                    fields=_RETRY,
                )
            self._by_group[group] += 1
        self.count += 1
        return None

    def leave(self, address: str) -> None:
        """Stop counting a connection that has ended."""
        self.count -= 1
        group = group_of(address)
        if group is not None:
            self._by_group[group] -= 1
            if not self._by_group[group]:
                del self._by_group[group]


def group_of(address: str) -> str | None:
    """Return the group whose connections are counted together, or None for a loopback address.

    The group is the address itself, or for IPv6 its /64 network, because one host often has all of
    it.
    """
    ip = address_of(address)
    if ip is None or ip.is_loopback:
        return None
    return str(ip_network((ip, _IPV6_PREFIX), strict=False)) if ip.version == 6 else str(ip)


def has_hung_up(stream: trio.abc.Stream) -> bool:
    """Check whether a peer has hung up; return False if the system cannot tell."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if sys.platform != "linux" or not isinstance(plain, trio.SocketStream):
        return False
    try:
        state = plain.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return True
    return state != _ESTABLISHED
