"""Which addresses may be probed."""

from __future__ import annotations

import pytest

from plexus_registry.core.errors import ConfigError
from plexus_registry.core.networks import parse_networks


@pytest.mark.parametrize(
    ("networks", "address", "is_probed"),
    [
        ("", "127.0.0.1", True),
        ("", "2001:db8::1", True),
        ("", "169.254.169.254", False),
        ("", "fe80::1", False),
        ("", "fe80::1%eth0", False),
        ("", "::ffff:169.254.169.254", False),
        ("169.254.0.0/16, fe80::/10", "169.254.169.254", False),
        ("10.0.0.0/8,fd00::/8", "10.1.2.3", True),
        ("10.0.0.0/8,fd00::/8", "fd00::1", True),
        ("10.0.0.0/8,fd00::/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8,fd00::/8", "11.1.2.3", False),
        ("10.0.0.0/8,", "::1", False),
    ],
)
def test_what_is_probed(networks: str, address: str, *, is_probed: bool) -> None:
    refusal = parse_networks(networks).refusal(address)
    assert (refusal is None) == is_probed


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "hub2", "10.0.0.0/8;::/0"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--probe-networks"):
        parse_networks(text)
