"""What the options of several commands have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec

import click

from plexus_registry.rules.backend import DECLARABLE, FIELDS, OPTIONAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P = ParamSpec("P")

TOKEN_VARIABLE = "REGISTRY_TOKEN"  # noqa: S105 - its name, not the token
MAX_SECONDS = 1e9
PORT = click.IntRange(1, 65535)
PROTOCOL = click.Choice(["ws", "wss"])


def seconds(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    """Take a number of seconds that one can wait."""
    if not 0 < value <= MAX_SECONDS:
        raise click.BadParameter(f"{value} must be a number of seconds above 0")
    return value


def seconds_or_never(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    """Take a number of seconds that one can wait, or 0."""
    if not 0 <= value <= MAX_SECONDS:
        raise click.BadParameter(f"{value} must be a number of seconds, or 0 for never")
    return value


def with_options(
    function: Callable[P, None], options: Sequence[Callable[[Callable[P, None]], Callable[P, None]]]
) -> Callable[P, None]:
    """Add options to a command, which lists them in their order."""
    for option in reversed(options):
        function = option(function)
    return function


def detail_options(function: Callable[P, None]) -> Callable[P, None]:
    """Add an option for each field that a config file may state beside name and address."""
    details = [FIELDS[name] for name in DECLARABLE if name in OPTIONAL]
    return with_options(function, [click.option(f"--{e.name}", help=e.doc) for e in details])


def change_options(function: Callable[P, None]) -> Callable[P, None]:
    """Add an option for each field that an update can change."""
    types = {"port": PORT, "protocol": PROTOCOL}
    changes = [each for each in FIELDS.values() if each.new is not None]
    return with_options(
        function,
        [click.option(f"--{e.name}", type=types.get(e.name), help=e.new) for e in changes],
    )
