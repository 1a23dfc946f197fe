"""What the options of several commands have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P = ParamSpec("P")

TOKEN_VARIABLE = "REGISTRY_TOKEN"  # noqa: S105 - its name, not the token
MAX_SECONDS = 1e9


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
