"""What every verb that asks a registry has in common: its options, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

from plexus_registry.cli.display import escaped
from plexus_registry.cli.values import TOKEN_VARIABLE, seconds
from plexus_registry.client import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import Callable


EXIT_NO = 1
EXIT_USAGE = 2
EXIT_NO_ANSWER = 3

P = ParamSpec("P")


class VerbError(click.ClickException):
    """A verb's end without success: one line on standard error, and an exit status."""

    def __init__(self, message: str, exit_code: int = EXIT_NO) -> None:
        super().__init__(escaped(message))
        # In click it belongs to the class; it is read from the instance.
        self.exit_code = exit_code  # type: ignore[misc]  # a ClassVar there


@dataclass(slots=True)
class Session:
    """What the common options say.

    Attributes:
        url: The registry's URL.
        token_file: The file with the token, where one is named.
        timeout: Seconds that the whole answer may take.
        as_json: Whether a program reads the output.
    """

    url: str = DEFAULT_URL
    token_file: Path | None = None
    timeout: float = 5.0
    as_json: bool = False

    @property
    def token(self) -> str | None:
        """What proves who is asking; it is never taken from the command line, which `ps` shows."""
        from plexus_registry.rules.errors import TokenError
        from plexus_registry.server.token_file import read_token, token_in_environment

        try:
            if self.token_file is None:
                return token_in_environment(TOKEN_VARIABLE)
            return read_token(self.token_file)
        except TokenError as error:
            raise VerbError(str(error), EXIT_USAGE) from error


pass_session = click.make_pass_decorator(Session, ensure=True)


def _store(ctx: click.Context, param: click.Parameter, value: object) -> None:
    setattr(ctx.ensure_object(Session), str(param.name), value)


def _store_seconds(ctx: click.Context, param: click.Parameter, value: float) -> None:
    _store(ctx, param, seconds(ctx, param, value))


def address_options(function: Callable[P, None]) -> Callable[P, None]:
    """Add the options that say which registry is asked, and who asks."""
    function = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_store,
        help=f"The file with the token, where the registry wants one; or set {TOKEN_VARIABLE}.",
    )(function)
    return click.option(
        "--url",
        default=DEFAULT_URL,
        envvar="REGISTRY_URL",
        show_envvar=True,
        show_default=True,
        expose_value=False,
        callback=_store,
        help="The registry to ask.",
    )(function)


def timeout_option(function: Callable[P, None]) -> Callable[P, None]:
    """Add the option that says how long the answer may take."""
    return click.option(
        "--timeout",
        type=float,
        default=Session().timeout,
        show_default=True,
        metavar="SECONDS",
        expose_value=False,
        callback=_store_seconds,
        help="How long the whole answer may take.",
    )(function)


def json_option(function: Callable[P, None]) -> Callable[P, None]:
    """Add the option for programs."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        callback=_store,
        help="Print the registry's answer as one line of JSON.",
    )(function)


def client_options(function: Callable[P, None]) -> Callable[P, None]:
    """Add all of them."""
    return address_options(timeout_option(json_option(function)))
