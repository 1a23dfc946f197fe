"""The options of `serve` that say how backends are probed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypedDict

import click

from plexus_registry.cli.values import seconds, seconds_or_never
from plexus_registry.core.errors import ConfigError
from plexus_registry.core.networks import parse_networks

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")


class ProbeValues(TypedDict):
    """What the options say, under the names that the settings have for it."""

    probe_interval: float
    probe_timeout: float
    probe_failures: int
    probe_concurrency: int
    probe_networks: str
    probe_ca: Path | None


def _networks(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    try:
        parse_networks(text)
    except ConfigError as error:
        raise click.BadParameter(error.reason) from error
    return text


_OPTIONS: tuple[Callable[[Callable[P, None]], Callable[P, None]], ...] = (
    click.option(
        "--probe-interval",
        type=float,
        callback=seconds_or_never,
        default=15.0,
        envvar="REGISTRY_PROBE_INTERVAL",
        show_envvar=True,
        show_default=True,
        help="Seconds between two probes of one backend; 0 probes none.",
    ),
    click.option(
        "--probe-timeout",
        type=float,
        callback=seconds,
        default=2.0,
        envvar="REGISTRY_PROBE_TIMEOUT",
        show_envvar=True,
        show_default=True,
        help="Seconds that one probe may take.",
    ),
    click.option(
        "--probe-failures",
        type=click.IntRange(2, 1000),
        default=3,
        envvar="REGISTRY_PROBE_FAILURES",
        show_envvar=True,
        show_default=True,
        help="How many probes in a row must fail until a backend is down.",
    ),
    click.option(
        "--probe-concurrency",
        type=click.IntRange(1, 10_000),
        default=64,
        envvar="REGISTRY_PROBE_CONCURRENCY",
        show_envvar=True,
        show_default=True,
        help="How many probes are under way at once.",
    ),
    click.option(
        "--probe-networks",
        callback=_networks,
        default="",
        envvar="REGISTRY_PROBE_NETWORKS",
        show_envvar=True,
        show_default="all; link-local addresses never",
        help="The networks whose addresses are probed: 10.0.0.0/8,fd00::/8",
    ),
    click.option(
        "--probe-ca",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="REGISTRY_PROBE_CA",
        show_envvar=True,
        help="A file of certificates (PEM) whose authority wss backends may have, too.",
    ),
)


def probe_options(function: Callable[P, None]) -> Callable[P, None]:
    """Add the options."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
