"""The options of `serve` that say who may come in, and how many."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

from plexus_registry.cli.values import TOKEN_VARIABLE, seconds, with_options
from plexus_registry.rules.errors import TokenError
from plexus_registry.server.access_policy import origin_of, spelled_host
from plexus_registry.server.token_file import read_token, token_in_environment
from plexus_registry.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

READ_TOKEN_VARIABLE = "REGISTRY_READ_TOKEN"  # noqa: S105 - its name, not the token
_KEY = "plexus_registry.server"
_DEFAULTS = ServerSettings()


def _store(ctx: click.Context, param: click.Parameter, value: object) -> None:
    ctx.meta.setdefault(_KEY, {})[param.name] = value


def _store_seconds(ctx: click.Context, param: click.Parameter, value: float) -> None:
    _store(ctx, param, seconds(ctx, param, value))


def _words(values: tuple[str, ...]) -> list[str]:
    return [word.strip() for value in values for word in value.split(",") if word.strip()]


def _store_hosts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    hosts = _words(values)
    for host in hosts:
        if spelled_host(host) is None or "*" in host:
            raise click.BadParameter(
                f"{host!r} is no host: write a name or an address, such as registry.example.com"
            )
    _store(ctx, param, tuple(hosts))


def _store_origins(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    origins = _words(values)
    for origin in origins:
        if origin_of(origin) is None or "*" in origin:
            raise click.BadParameter(
                f"{origin!r} is no origin: write scheme, host and port without a path, such as"
                " https://tools.example.com"
            )
    _store(ctx, param, tuple(origins))


def _store_token(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    variable = TOKEN_VARIABLE if param.name == "token" else READ_TOKEN_VARIABLE
    try:
        token = token_in_environment(variable) if path is None else read_token(path)
    except TokenError as error:
        raise click.UsageError(str(error), ctx) from error
    _store(ctx, param, token)


_FILE = click.Path(dir_okay=False, path_type=Path)

# Each flag, with what click needs to know of it; the defaults are those of the settings.
_OPTIONS: tuple[Callable[[Callable[P, None]], Callable[P, None]], ...] = (
    click.option(
        "--allow-host",
        "allow_hosts",
        multiple=True,
        type=str,
        metavar="NAME",
        envvar="REGISTRY_ALLOW_HOST",
        show_envvar=True,
        expose_value=False,
        callback=_store_hosts,
        help="Another name or address by which clients may call this registry; can be repeated.",
    ),
    click.option(
        "--allow-origin",
        "allow_origins",
        multiple=True,
        type=str,
        metavar="ORIGIN",
        envvar="REGISTRY_ALLOW_ORIGIN",
        show_envvar=True,
        expose_value=False,
        callback=_store_origins,
        help="An origin whose web pages may connect, as https://tools.example.com; can be"
        " repeated.",
    ),
    click.option(
        "--token-file",
        "token",
        type=_FILE,
        expose_value=False,
        callback=_store_token,
        help=f"The file with the token that clients must show; or set {TOKEN_VARIABLE}.",
    ),
    click.option(
        "--read-token-file",
        "read_token",
        type=_FILE,
        expose_value=False,
        callback=_store_token,
        help=f"The file with a token that only allows looking; or set {READ_TOKEN_VARIABLE}.",
    ),
    click.option(
        "--public-reads",
        is_flag=True,
        expose_value=False,
        callback=_store,
        help="Let clients without a token look; changes need the token.",
    ),
    click.option(
        "--allow-url-token",
        is_flag=True,
        expose_value=False,
        callback=_store,
        help="Take the token from the URL, too (?access_token=), for clients that send no headers.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        expose_value=False,
        callback=_store,
        help="Let other machines connect though there is no token.",
    ),
    click.option(
        "--tls-cert",
        type=_FILE,
        envvar="REGISTRY_TLS_CERT",
        show_envvar=True,
        expose_value=False,
        callback=_store,
        help="The certificate (PEM): the port then speaks wss and https. SIGHUP reads it again.",
    ),
    click.option(
        "--tls-key",
        type=_FILE,
        envvar="REGISTRY_TLS_KEY",
        show_envvar=True,
        expose_value=False,
        callback=_store,
        help="Its key (PEM), unless it is in the same file.",
    ),
    click.option(
        "--max-connections",
        type=click.IntRange(1),
        default=_DEFAULTS.max_connections,
        show_default=True,
        expose_value=False,
        callback=_store,
        help="Open connections.",
    ),
    click.option(
        "--max-connections-per-address",
        type=click.IntRange(1),
        default=_DEFAULTS.max_connections_per_address,
        show_default=True,
        expose_value=False,
        callback=_store,
        help="Open connections from one address other than the loopback.",
    ),
    click.option(
        "--ping-interval",
        type=float,
        default=_DEFAULTS.ping_interval,
        show_default=True,
        expose_value=False,
        callback=_store_seconds,
        help="Seconds after which an idle connection is pinged; two missed pongs end it.",
    ),
    click.option(
        "--unread-seconds",
        type=float,
        default=_DEFAULTS.unread_seconds,
        show_default=True,
        expose_value=False,
        callback=_store_seconds,
        help="Seconds for which a client may read nothing of what is sent to it.",
    ),
    click.option(
        "--max-unread-total",
        type=click.IntRange(1024),
        default=_DEFAULTS.max_unread_total,
        show_default=True,
        expose_value=False,
        callback=_store,
        help="What may wait for all clients together to read it; long answers wait for room.",
    ),
)


def server_options(function: Callable[P, None]) -> Callable[P, None]:
    """Add the options."""
    return with_options(function, _OPTIONS)


def server_settings(ctx: click.Context) -> ServerSettings:
    """Make the settings that the options say, once all of them are known."""
    values = ctx.meta[_KEY]
    server = ServerSettings(**{each.name: values[each.name] for each in fields(ServerSettings)})
    if server.read_token is not None and server.token is None:
        raise click.UsageError(
            "a token for looking needs one for everything beside it: give --token-file or"
            f" {TOKEN_VARIABLE}, too",
            ctx,
        )
    if server.read_token is not None and server.read_token == server.token:
        raise click.UsageError("the token for looking is the same as the one for everything", ctx)
    if server.public_reads and server.token is None:
        raise click.UsageError(
            f"--public-reads needs a token for changes: give --token-file or {TOKEN_VARIABLE}, too",
            ctx,
        )
    if server.tls_key is not None and server.tls_cert is None:
        raise click.UsageError("--tls-key needs --tls-cert", ctx)
    return server
