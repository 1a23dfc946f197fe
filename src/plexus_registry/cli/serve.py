"""`trio-registry serve`: the options become settings, and the registry runs.

Theory of operation. The options are made from the option table in settings.py: the type of a
field makes the type of its option. `_READERS` lists the few whose text needs more than that.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from plexus_registry.cli.display import escaped, set_up_logging
from plexus_registry.cli.session import FILE, TOKEN_VARIABLE, keep_rule, read_token
from plexus_registry.rules.errors import ConfigError, RegistryError, TokenError
from plexus_registry.server.access_policy import normalized_host, normalized_origin
from plexus_registry.settings import GENERAL, Option, Settings, options

if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[click.Context, click.Parameter, object], object]

log = logging.getLogger(__name__)

EXIT_BUG = 70
LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LOG_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL,
}


def _log_levels(_ctx: click.Context, _param: click.Parameter, text: str) -> dict[str, int]:
    """Read levels as in `RUST_LOG`; the name of the root logger is empty."""
    levels: dict[str, int] = {}
    for directive in text.split(","):
        target, _, level = directive.strip().rpartition("=")
        if level.lower() not in LOG_LEVELS:
            raise click.BadParameter(
                f"{directive!r} is no log level: use one of {', '.join(LOG_LEVELS)},"
                " or plexus_registry=debug,info"
            )
        # Rust programs separate the parts of a module path with "::".
        levels[target.replace("::", ".")] = LOG_LEVELS[level.lower()]
    return levels


def _networks(_ctx: click.Context, _param: click.Parameter, text: object) -> object:
    from plexus_registry.health.network import parse_networks

    try:
        parse_networks(str(text))
    except ConfigError as error:
        raise click.BadParameter(error.reason) from error
    return text


def _words(normalized: Callable[[str], str | None], rule: str) -> Callback:
    """Make the callback of an option that may be repeated, or hold several words."""

    def read(_ctx: click.Context, _param: click.Parameter, texts: object) -> object:
        assert isinstance(texts, tuple)  # noqa: S101 - the option may be repeated
        words = tuple(word.strip() for text in texts for word in text.split(",") if word.strip())
        for word in words:
            if normalized(word) is None or "*" in word:
                raise click.BadParameter(f"{word!r} is {rule}")
        return words

    return read


def _token(ctx: click.Context, param: click.Parameter, path: object) -> object:
    variable = TOKEN_VARIABLE if param.name == "token" else "REGISTRY_READ_TOKEN"
    try:
        return read_token(path if isinstance(path, Path) else None, variable)
    except TokenError as error:
        raise click.UsageError(str(error), ctx) from error


def _negated(_ctx: click.Context, _param: click.Parameter, value: object) -> object:
    return not value


_READERS: dict[str, Callback] = {
    "probe_networks": _networks,
    "allow_hosts": _words(
        normalized_host, "no host: write a name or an address, such as registry.example.com"
    ),
    "allow_origins": _words(
        normalized_origin,
        "no origin: write scheme, host and port without a path, such as https://tools.example.com",
    ),
    "token": _token,
    "read_token": _token,
}


def _type_of(option: Option) -> click.IntRange | click.Path | type[float] | None:
    """Choose click's type for an option; None if it is a text or a flag."""
    if option.values is not None and option.kind is int:
        schema = option.values.schema
        most = int(schema["maximum"]) if "maximum" in schema else None
        return click.IntRange(int(schema["minimum"]), most)
    if option.name == "config_path":  # a folder in its place is reported when it is read
        return click.Path(path_type=Path)
    if option.kind in (Path, Path | None) or option.is_secret:
        return FILE
    return float if option.kind is float else None


def _click_option(option: Option) -> click.Option:
    """Make the option of the command line from its row."""
    callback = _READERS.get(option.name)
    if option.kind is bool and option.default:
        callback = _negated
    elif callback is None and option.values is not None:
        callback = keep_rule(option.values)
    is_flag = option.kind is bool
    is_shown = not is_flag and option.default not in ("", None, ())
    return click.Option(
        [option.flag, *filter(None, [option.short]), option.name],
        type=_type_of(option),
        is_flag=is_flag,
        multiple=isinstance(option.default, tuple),
        default=False if is_flag else option.default,
        show_default=option.shown_default or is_shown,
        envvar=option.variable,
        show_envvar=True,
        metavar=option.metavar,
        callback=callback,
        help=option.help,
    )


_LOG_LEVEL = click.Option(
    ["--log-level"],
    callback=_log_levels,
    default="info",
    envvar="RUST_LOG",
    show_envvar=True,
    show_default=True,
    help="How much to log: trace, debug, info, warn, error or off; or by module, as"
    " plexus_registry=debug,info.",
)


class ServeCommand(click.Command):
    """The command `serve`, whose help shows the options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each group under its heading."""
        groups = {option.name: option.group for option in options()}
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                group = groups.get(str(param.name), GENERAL)
                sections.setdefault(group, []).append(record)
        for group, records in sections.items():
            with formatter.section(group):
                formatter.write_dl(records)


@click.command(cls=ServeCommand, params=[*map(_click_option, options()), _LOG_LEVEL])
@click.pass_context
def serve(ctx: click.Context, /, *, log_level: dict[str, int], **_: object) -> None:
    """Serve the registry (what `trio-registry` does without a verb).

    It stops at Ctrl-C or SIGTERM: requests that are running finish, and nothing that was
    acknowledged is lost. At SIGHUP it reads the config file and the certificate again.
    """
    set_up_logging(LOG_LINE, log_level)
    try:
        settings = Settings(**{option.name: ctx.params[option.name] for option in options()})
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from error
    is_given = ctx.get_parameter_source("config_path") is not ParameterSource.DEFAULT
    if is_given and not os.path.lexists(settings.config_path):
        log.warning(
            "config file %s does not exist: it is read once it exists",
            escaped(str(settings.config_path)),
        )
    import trio

    from plexus_registry.app import run

    try:
        trio.run(partial(run, settings, say=click.echo))
    except RegistryError as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:  # noqa: BLE001 - the last line of a process that a bug ends
        log.critical("stopped by a bug: %r", error)
        sys.exit(EXIT_BUG)
