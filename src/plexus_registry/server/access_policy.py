"""The access policy: which requests are answered, by their Host, their Origin and their tokens.

Theory of operation. A web page can make a browser connect to any address, even to one that only
this machine can reach. But the page cannot choose the `Origin` and the `Host` that the browser
sends. The `Origin` names the site that the page came from. The `Host` is the name in the URL: if
a page has pointed its own name at this machine (DNS rebinding), the `Host` is that name. Such a
page sends an `Origin` that equals the `Host`, so this equality proves nothing. Other programs send
no `Origin`; for them the token decides.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from plexus_registry.rules.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Grant(IntEnum):
    """What the tokens of a peer allow it to do."""

    NOTHING = 0
    READ = 1
    ALL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """The head of an HTTP request; the names of its header fields are in lower case."""

    method: str
    target: str
    version: str = "1.1"
    fields: Sequence[tuple[bytes, bytes]] = ()

    def values(self, name: bytes) -> list[str]:
        """Return all values of a field, in order."""
        return [value.decode("latin-1") for key, value in self.fields if key == name]

    def words(self, name: bytes) -> list[str]:
        """Return the words of a field that is a list, in lower case."""
        return [w.strip().lower() for value in self.values(name) for w in value.split(",")]

    @property
    def path(self) -> str:
        """Return the target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The reason why a connection or a request is refused.

    Attributes:
        status: The HTTP status of the answer.
        counted_as: The name under which `/healthz` counts it.
        text: The body of the answer; values that the peer sent are escaped in it.
        log: The line for the log, if the operator may want to allow such requests; or empty.
        fields: More header fields of the answer.
    """

    status: int
    counted_as: str
    text: str
    log: str = ""
    fields: tuple[tuple[str, str], ...] = ()


TAURI_ORIGINS = frozenset(
    {"tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"}
)
"""The origins of Tauri's desktop programs, which depend on the operating system. No page of another
site has them: in a browser, `tauri.localhost` is this machine."""

_NAME_OR_ADDRESS = (
    r"(\[[0-9a-f.]*:[0-9a-f:.]*\]|[^\x00-\x20\x7f-\xff\[\]:/?#@%\\]+(?<!\.\.)(?<!^\.)(?<!/\.))"
)
_HOST = re.compile(rf"{_NAME_OR_ADDRESS}(?::([0-9]{{0,5}}))?")
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://{_NAME_OR_ADDRESS}(?::([0-9]{{1,5}}))?")
_MOST_PORT = 65535
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_of(value: str) -> str | None:
    """Return the normalized host of a `Host` field, or None if the field is malformed."""
    match = _HOST.fullmatch(value.strip(" \t").lower())
    if match is None or int(match[2] or 0) > _MOST_PORT:
        return None
    return _normalized(match[1])


def normalized_host(value: str) -> str | None:
    """Return a host name or address, normalized, or None if it is malformed.

    Unlike in a `Host` field, an IPv6 address needs no brackets.
    """
    address = address_of(value)
    return host_of(value) if address is None else str(address)


def normalized_origin(value: str) -> str | None:
    """Return an origin, normalized, or None if it is not scheme, host and port.

    Source: RFC 6454, section 6.2.
    """
    match = _ORIGIN.fullmatch(value.strip(" \t").lower())
    if match is None or int(match[3] or 0) > _MOST_PORT:
        return None
    scheme, host, port = match[1], _normalized(match[2]), match[3]
    is_default = port is None or port.lstrip("0") == _DEFAULT_PORTS.get(scheme)
    shown_host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown_host}" + ("" if is_default else f":{port}")


def _normalized(host: str) -> str:
    address = address_of(host.strip("[]"))
    return host.removesuffix(".") if address is None else str(address)


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a text is, or None; one of IPv4 that is mapped to IPv6 counts."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Check whether a host is `localhost` or a loopback address."""
    address = address_of(host.strip("[]"))
    return host == "localhost" if address is None else address.is_loopback


def is_loopback_origin(origin: str) -> bool:
    """Check whether a normalized origin belongs to a page of this machine."""
    scheme, _, rest = origin.partition("://")
    host = rest.partition("]")[0] if rest.startswith("[") else rest.partition(":")[0]
    return scheme in _DEFAULT_PORTS and is_loopback(host.strip("[]"))


class AccessPolicy:
    """Decides which requests are answered, and what their senders may do."""

    def __init__(
        self,
        *,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        token: str | None = None,
        read_token: str | None = None,
        public_reads: bool = False,
        allow_url_token: bool = False,
    ) -> None:
        """Set the rules.

        Args:
            hosts: Names and addresses of this registry, besides the loopback ones.
            origins: Origins whose pages may connect, besides those of this machine.
            token: The token that allows everything; if None, all peers may do everything.
            read_token: The token that allows reading.
            public_reads: Whether a request without a token may read.
            allow_url_token: Whether a token may be in the URL, as `access_token`.
        """
        self._hosts = {normalized_host(host) for host in hosts} - {None}
        self._origins = {normalized_origin(origin) for origin in origins} | TAURI_ORIGINS
        self._tokens = [
            (secret.encode(), grant)
            for secret, grant in ((token, Grant.ALL), (read_token, Grant.READ))
            if secret is not None
        ]
        self._public_reads = public_reads
        self._allow_url_token = allow_url_token

    def refusal(self, head: RequestHead, *, local: str) -> Refusal | None:
        """Return the refusal of a request with a wrong Host or Origin, or None.

        `local` is the address of this machine that the peer connected to.
        """
        return self._wrong_host(head, local) or self._wrong_origin(head)

    def _wrong_host(self, head: RequestHead, local: str) -> Refusal | None:
        values = head.values(b"host")
        if not values:
            return None  # HTTP/1.0, which no browser speaks
        host = host_of(values[0]) if len(values) == 1 else None
        ours = {*self._hosts, _normalized(local.lower())}
        if host is not None and (is_loopback(host) or host in ours):
            return None
        name = shown(values[0])
        return Refusal(
            status=421,
            counted_as="host",
            text=f"This registry is not called {name}. Use localhost or its address, or ask its"
            " operator to allow the name with --allow-host.",
            log=f"refused a request for the host {name}: if it is this registry's name, start it"
            " with --allow-host",
        )

    def _wrong_origin(self, head: RequestHead) -> Refusal | None:
        values = head.values(b"origin")
        if not values:
            return None
        origin = normalized_origin(values[0]) if len(values) == 1 else None
        if origin is not None and (origin in self._origins or is_loopback_origin(origin)):
            return None
        name = shown(", ".join(values))
        return Refusal(
            status=403,
            counted_as="origin",
            text=f"Pages of the origin {name} may not use this registry, unless it is started"
            " with --allow-origin ORIGIN.",
            log=f"refused a page of the origin {name}: to allow it, start the registry with"
            " --allow-origin",
        )

    def grant(self, head: RequestHead) -> Grant:
        """Return what the tokens of a request allow, in a time that does not depend on them."""
        if not self._tokens:
            return Grant.ALL
        # A wrong token is refused even with public reads: its sender should learn of the mistake.
        is_public = self._public_reads and not self.has_token(head)
        best = Grant.READ if is_public else Grant.NOTHING
        for offered in self._offered(head):
            given = offered.encode()
            for token, grant in self._tokens:
                if hmac.compare_digest(given, token):
                    best = max(best, grant)
        return best

    def has_token(self, head: RequestHead) -> bool:
        """Check whether a request has any token, right or wrong."""
        return next(self._offered(head), None) is not None

    def _offered(self, head: RequestHead) -> Iterator[str]:
        yield from head.values(b"x-plexus-api-key")
        for value in head.values(b"authorization"):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer":
                yield token.strip()
        for value in head.values(b"cookie"):
            for pair in value.split(";"):
                name, _, token = pair.strip().partition("=")
                if name == "access_token":
                    yield token
        if self._allow_url_token:
            for pair in head.target.partition("?")[2].split("&"):
                name, _, token = pair.partition("=")
                if name == "access_token":
                    yield unquote_plus(token)


UNAUTHORIZED = Refusal(
    status=401,
    counted_as="unauthorized",
    text="This registry needs a token: send it as `Authorization: Bearer TOKEN` or as"
    " `X-Plexus-API-Key: TOKEN`; trio-registry takes it from REGISTRY_TOKEN or --token-file.",
    fields=(("WWW-Authenticate", 'Bearer realm="plexus"'),),
)
