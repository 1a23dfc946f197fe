"""Who may come in: the rules about the Host, the Origin and the tokens of a request.

Theory of operation. A web page can make a browser connect to any address, also to one that only
this machine reaches; what it cannot do is choose the `Origin` and the `Host` that the browser
sends. A page of somebody else's site shows in its `Origin`. A page whose own name was pointed
at this machine (DNS rebinding) shows in its `Host`, which also is why an `Origin` that equals
the `Host` proves nothing. Programs that are no browsers send no `Origin`; what they may do is
decided by the token.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from plexus_registry.rules.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Grant(IntEnum):
    """What a peer may do."""

    NOTHING = 0
    READ = 1
    ALL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """The head of an HTTP request.

    Attributes:
        method: As it came.
        target: As it came.
        version: `1.0` or `1.1`.
        fields: The header fields in order, with names in lower case.
    """

    method: str
    target: str
    version: str = "1.1"
    fields: Sequence[tuple[bytes, bytes]] = ()

    def values(self, name: bytes) -> list[str]:
        """All values of a field."""
        return [value.decode("latin-1") for key, value in self.fields if key == name]

    def words(self, name: bytes) -> list[str]:
        """The words of a field that is a list, in lower case."""
        return [w.strip().lower() for value in self.values(name) for w in value.split(",")]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a peer gets no further.

    Attributes:
        status: The HTTP status.
        word: What is counted.
        text: What the peer reads; nothing that it sent is in it unescaped.
        log: What the log says, for refusals that whoever runs the registry may want to lift.
        fields: More header fields of the answer.
    """

    status: int
    word: str
    text: str
    log: str = ""
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """What is let in beyond the default.

    Attributes:
        hosts: More names and addresses by which this registry may be called.
        origins: More origins whose pages may connect.
        token: Grants everything; without it everybody may do everything.
        read_token: Grants looking.
        public_reads: Whether who shows no token may look.
        allow_url_token: Whether a token may stand in the URL, as `access_token`.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)
    read_token: str | None = field(default=None, repr=False)
    public_reads: bool = False
    allow_url_token: bool = False


TAURI_ORIGINS = frozenset(
    {"tauri://localhost", "http://tauri.localhost", "https://tauri.localhost"}
)
"""What the windows of Tauri's desktop programs send, by system. Only they can: a browser makes
`tauri.localhost` this machine."""

_NAME_OR_ADDRESS = (
    r"(\[[0-9a-f.]*:[0-9a-f:.]*\]|[^\x00-\x20\x7f-\xff\[\]:/?#@%\\]+(?<!\.\.)(?<!^\.)(?<!/\.))"
)
_HOST = re.compile(rf"{_NAME_OR_ADDRESS}(?::([0-9]{{0,5}}))?")
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://{_NAME_OR_ADDRESS}(?::([0-9]{{1,5}}))?")
_MOST_PORT = 65535
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_of(value: str) -> str | None:
    """Take the host out of a `Host` field, in its one spelling; None where there is none."""
    match = _HOST.fullmatch(value.strip(" \t").lower())
    if match is None or int(match[2] or 0) > _MOST_PORT:
        return None
    return _one_spelling(match[1])


def spelled_host(value: str) -> str | None:
    """Give a host in its one spelling; unlike in a `Host` field, IPv6 needs no brackets."""
    address = _address(value)
    return host_of(value) if address is None else str(address)


def origin_of(value: str) -> str | None:
    """Give an origin in its one spelling; None where it is none that can be allowed.

    Source: RFC 6454, section 6.2.
    """
    match = _ORIGIN.fullmatch(value.strip(" \t").lower())
    if match is None or int(match[3] or 0) > _MOST_PORT:
        return None
    scheme, host, port = match[1], _one_spelling(match[2]), match[3]
    is_default = port is None or port.lstrip("0") == _DEFAULT_PORTS.get(scheme)
    shown_host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown_host}" + ("" if is_default else f":{port}")


def _one_spelling(host: str) -> str:
    address = _address(host.strip("[]"))
    return host.removesuffix(".") if address is None else str(address)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant: `localhost`, or an address of the loopback."""
    address = _address(host.strip("[]"))
    return host == "localhost" if address is None else address.is_loopback


def is_loopback_origin(origin: str) -> bool:
    """Whether a page of this machine has the origin, in its one spelling."""
    scheme, _, rest = origin.partition("://")
    host = rest.partition("]")[0] if rest.startswith("[") else rest.partition(":")[0]
    return scheme in _DEFAULT_PORTS and is_loopback(host.strip("[]"))


class AccessPolicy:
    """Judges requests by the rules."""

    def __init__(self, rules: AccessRules) -> None:
        self._rules = rules
        self._hosts = {spelled_host(host) for host in rules.hosts} - {None}
        self._origins = {origin_of(origin) for origin in rules.origins} | TAURI_ORIGINS
        self._tokens = [
            (token.encode(), grant)
            for token, grant in ((rules.token, Grant.ALL), (rules.read_token, Grant.READ))
            if token is not None
        ]

    def refusal(self, head: RequestHead, *, bound: str) -> Refusal | None:
        """Find out whether a request comes from where it may come from.

        Args:
            head: Its head.
            bound: The address of this machine that it came to.
        """
        return self._wrong_host(head, bound) or self._wrong_origin(head)

    def _wrong_host(self, head: RequestHead, bound: str) -> Refusal | None:
        values = head.values(b"host")
        if not values:
            return None  # HTTP/1.0: no browser
        host = host_of(values[0]) if len(values) == 1 else None
        if host is not None and self._is_ours(host, bound):
            return None
        name = shown(values[0])
        return Refusal(
            status=421,
            word="host",
            text=f"This registry is not called {name}. Use localhost or its address, or have it"
            " started with --allow-host NAME.",
            log=f"refused a request for the host {name}: if it is this registry's name, start it"
            " with --allow-host",
        )

    def _is_ours(self, host: str, bound: str) -> bool:
        return is_loopback(host) or host in self._hosts or host == _one_spelling(bound.lower())

    def _wrong_origin(self, head: RequestHead) -> Refusal | None:
        values = head.values(b"origin")
        if not values:
            return None
        origin = origin_of(values[0]) if len(values) == 1 else None
        if origin is not None and (origin in self._origins or is_loopback_origin(origin)):
            return None
        name = shown(", ".join(values))
        return Refusal(
            status=403,
            word="origin",
            text=f"Pages of the origin {name} may not use this registry, unless it is started"
            " with --allow-origin ORIGIN.",
            log=f"refused a page of the origin {name}: if it may come in, start the registry with"
            " --allow-origin",
        )

    def grant(self, head: RequestHead) -> Grant:
        """Find out what the tokens of a request allow, in a time that does not depend on them."""
        if not self._tokens:
            return Grant.ALL
        # Public reads are for those who show no token: a wrong one is a mistake to be told of.
        is_public = self._rules.public_reads and not self.shows_token(head)
        best = Grant.READ if is_public else Grant.NOTHING
        for offered in self._offered(head):
            given = offered.encode()
            for token, grant in self._tokens:
                if hmac.compare_digest(given, token):
                    best = max(best, grant)
        return best

    def shows_token(self, head: RequestHead) -> bool:
        """Find out whether a request shows any token, right or wrong."""
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
        if self._rules.allow_url_token:
            for pair in head.target.partition("?")[2].split("&"):
                name, _, token = pair.partition("=")
                if name == "access_token":
                    yield unquote_plus(token)


UNAUTHORIZED = Refusal(
    status=401,
    word="unauthorized",
    text="This registry wants a token: send it as `Authorization: Bearer TOKEN` or as"
    " `X-Plexus-API-Key: TOKEN`; trio-registry takes it from REGISTRY_TOKEN or --token-file.",
    fields=(("WWW-Authenticate", 'Bearer realm="plexus"'),),
)
