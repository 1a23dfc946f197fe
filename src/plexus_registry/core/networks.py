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

from plexus_registry.core.errors import ConfigError, shown

_LINK_LOCAL = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"))


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks whose addresses are probed; all of them where none is named.

    Link-local addresses never are: what listens there (a cloud's own services, above all) is
    nothing that a registry should be made to talk to.
    """

    allowed: tuple[IPv4Network | IPv6Network, ...] = ()

    def refusal(self, address: str) -> str | None:
        """Say why a numeric address is not probed; None where it is."""
        return _refusal(self.allowed, address)


@lru_cache(maxsize=16 * 1024)
def _refusal(allowed: tuple[IPv4Network | IPv6Network, ...], address: str) -> str | None:
    numeric: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(numeric, IPv6Address) and numeric.ipv4_mapped is not None:
        numeric = numeric.ipv4_mapped
    if any(numeric in network for network in _LINK_LOCAL):
        return f"{numeric} is link-local: such addresses are never probed"
    if allowed and not any(numeric in network for network in allowed):
        return f"{numeric} is in none of the networks that are probed"
    return None


def parse_networks(text: str) -> Networks:
    """Read networks as `10.0.0.0/8,fd00::/8`, parted by commas; an empty text means all.

    Raises:
        ConfigError: One of them is no network.
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
