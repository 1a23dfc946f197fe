"""How many are in: the connections in all, and from each address."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, ip_address

from plexus_registry.server.access_policy import Refusal

_RETRY = (("Retry-After", "5"),)
_IPV6_PREFIX = 64


class ConnectionLimits:
    """Counts connections, and says when one more is too many.

    Everything on this machine shares the loopback addresses, so these count in all only.
    """

    def __init__(self, *, most: int, most_from_one: int) -> None:
        self._most = most
        self._most_from_one = most_from_one
        self._from: Counter[str] = Counter()
        self.count = 0

    def enter(self, address: str) -> Refusal | None:
        """Let a connection in; who is refused is not in, and must not leave."""
        if self.count >= self._most:
            return Refusal(
                status=503,
                word="connections",
                text=f"All {self._most} connections are taken: try again later, or have the"
                " registry started with a larger --max-connections.",
                log=f"refused a connection: all {self._most} are taken; start the registry with"
                " a larger --max-connections if that is too few",
                fields=_RETRY,
            )
        group = group_of(address)
        if group is not None:
            if self._from[group] >= self._most_from_one:
                return Refusal(
                    status=503,
                    word="connections_per_address",
                    text=f"Your address has {self._most_from_one} connections already: close"
                    " some, or have the registry started with a larger"
                    " --max-connections-per-address.",
                    log=f"refused a connection from {group}, which has {self._most_from_one};"
                    " start the registry with a larger --max-connections-per-address if that is"
                    " too few",
                    fields=_RETRY,
                )
            self._from[group] += 1
        self.count += 1
        return None

    def leave(self, address: str) -> None:
        """Forget a connection that was let in."""
        self.count -= 1
        group = group_of(address)
        if group is not None:
            self._from[group] -= 1
            if not self._from[group]:
                del self._from[group]


def group_of(address: str) -> str | None:
    """Whom a connection counts for: its address, or the network that one IPv6 host has whole.

    None for the loopback.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is None:
            if ip.is_loopback:
                return None
            prefix = int(ip) >> (128 - _IPV6_PREFIX) << (128 - _IPV6_PREFIX)
            return f"{IPv6Address(prefix)}/{_IPV6_PREFIX}"
        ip = ip.ipv4_mapped
    return None if ip.is_loopback else str(ip)
