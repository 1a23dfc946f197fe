"""Which addresses may be probed."""

from __future__ import annotations

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

from plexus_registry.rules.errors import ConfigError, shown

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


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks that may be probed; an empty tuple allows all of them.

    Link-local addresses are never probed, nor are IPv6 addresses that contain one. Above all, a
    cloud provider's own services listen there, and no caller may make the registry talk to them.
    """

    allowed: tuple[IPv4Network | IPv6Network, ...] = ()

    def refusal(self, address: str) -> str | None:
        """Return why a numeric address must not be probed; None if it may."""
        return _refusal(self.allowed, address)


@lru_cache(maxsize=16 * 1024)
def _refusal(allowed: tuple[IPv4Network | IPv6Network, ...], address: str) -> str | None:
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
    return Networks(tuple(networks))
