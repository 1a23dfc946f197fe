"""The options of `serve` that say how backends are probed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypedDict

import click

from plexus_registry.cli.values import seconds, seconds_or_never, with_options
from plexus_registry.health.allowed_networks import parse_networks
from plexus_registry.rules.errors import ConfigError

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


def _setting(
    flag: str, *, show_default: bool | str = True, **more: object
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Make an option that can be set in the environment, too."""
    variable = "REGISTRY_" + flag.removeprefix("--").upper().replace("-", "_")
    shown = {"show_envvar": True, "show_default": show_default}
    return click.option(flag, cls=click.Option, envvar=variable, **shown, **more)


_OPTIONS: tuple[Callable[[Callable[P, None]], Callable[P, None]], ...] = (
    _setting(
        "--probe-interval",
        type=float,
        callback=seconds_or_never,
        default=15.0,
        help="Seconds between two probes of one backend; 0 probes none.",
    ),
    _setting(
        "--probe-timeout",
        type=float,
        callback=seconds,
        default=2.0,
        help="Seconds that one probe may take.",
    ),
    _setting(
        "--probe-failures",
        type=click.IntRange(2, 1000),
        default=3,
        help="How many probes in a row must fail until a backend is down.",
    ),
    _setting(
        "--probe-concurrency",
        type=click.IntRange(1, 10_000),
        default=64,
        help="How many probes are under way at once.",
    ),
    _setting(
        "--probe-networks",
        callback=_networks,
        default="",
        show_default="all; link-local addresses never",
        help="The networks whose addresses are probed: 10.0.0.0/8,fd00::/8",
    ),
    _setting(
        "--probe-ca",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A file of certificates (PEM) whose authority wss backends may have, too.",
    ),
)


def probe_options(function: Callable[P, None]) -> Callable[P, None]:
    """Add the options."""
    return with_options(function, _OPTIONS)
