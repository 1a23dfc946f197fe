"""The values that options of several commands take."""

from __future__ import annotations

import click

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
