"""`trio-registry serve`: flags and environment become settings, and the registry runs."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from plexus_registry.cli.display import escaped
from plexus_registry.cli.log_lines import LineFormatter
from plexus_registry.cli.probe_options import probe_options
from plexus_registry.cli.server_options import server_options, server_settings
from plexus_registry.cli.values import seconds
from plexus_registry.rpc.limits import Limits
from plexus_registry.rules.backend import FIELDS
from plexus_registry.rules.errors import RegistryError
from plexus_registry.rules.methods import NAMESPACE
from plexus_registry.settings import DEFAULT_PORT, Settings, default_config_path, default_db_path

if TYPE_CHECKING:
    from typing import Unpack

    from plexus_registry.cli.probe_options import ProbeValues

log = logging.getLogger(__name__)

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL,
}
_PACKAGE = "plexus_registry"
MAX_NESTING_LIMIT = 256
EXIT_BUG = 70


def _log_levels(_ctx: click.Context, _param: click.Parameter, text: str) -> dict[str, int]:
    """Give the level of each logger that is named; the name of the root logger is empty."""
    levels: dict[str, int] = {}
    for directive in text.split(","):
        target, _, level = directive.strip().rpartition("=")
        if level.lower() not in LEVELS:
            raise click.BadParameter(
                f"{directive!r} is no log level: use one of {', '.join(LEVELS)},"
                f" or {_PACKAGE}=debug,info"
            )
        # Rust programs part a module path with "::".
        levels[target.replace("::", ".")] = LEVELS[level.lower()]
    return levels


def _hub_namespace(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    """Refuse what would hide the registry's own methods, or is no name for a file or a path."""
    if name == NAMESPACE:
        raise click.BadParameter(
            f"{name!r} would hide the methods of the registry itself; choose another name"
        )
    if not FIELDS["name"].values.accepts(name) or "." in name:
        raise click.BadParameter(f"{name!r} must be {FIELDS['name'].values.rule}, and without dots")
    return name


def _set_up_logging(levels: dict[str, int]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=levels.get("", logging.INFO), handlers=[handler])
    for name, level in levels.items():
        if name:
            logging.getLogger(name).setLevel(level)


@click.command()
@click.option(
    "--port",
    "-p",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    envvar="REGISTRY_PORT",
    show_envvar=True,
    show_default=True,
    help="The port to listen on; 0 picks a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="REGISTRY_HOST",
    show_envvar=True,
    show_default=True,
    help="The address to listen on.",
)
@click.option(
    "--db-path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=default_db_path,
    envvar="REGISTRY_DB_PATH",
    show_envvar=True,
    show_default="registry.db in the config folder",
    help="The SQLite database.",
)
@click.option(
    "--start-empty",
    is_flag=True,
    help="Begin with an empty database where the one that was there is missing.",
)
@click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path),
    default=default_config_path,
    envvar="REGISTRY_CONFIG",
    show_envvar=True,
    show_default="~/.config/plexus/backends.toml",
    help="The config file; it is watched, and need not exist.",
)
@click.option(
    "--log-level",
    callback=_log_levels,
    default="info",
    envvar="RUST_LOG",
    show_envvar=True,
    show_default=True,
    help="How much to log: a level, or levels by module (plexus_registry=debug,info).",
)
@click.option(
    "--hub-namespace",
    callback=_hub_namespace,
    default="registry-hub",
    show_default=True,
    help="What the registry calls itself among Plexus hubs.",
)
@click.option(
    "--poll-interval",
    type=float,
    callback=seconds,
    default=1.0,
    show_default=True,
    help="Seconds between two looks at the config file.",
)
@click.option(
    "--stale-after",
    type=float,
    callback=seconds,
    default=60.0,
    show_default=True,
    help="Seconds of silence after which a backend that pings is inactive.",
)
@click.option(
    "--sweep-interval",
    type=float,
    callback=seconds,
    default=5.0,
    show_default=True,
    help="Seconds between two looks for silent backends.",
)
@probe_options
@click.option(
    "--max-message-bytes",
    type=click.IntRange(1024, 2**30),
    default=Limits().message_bytes,
    show_default=True,
    help="The size of a request; a larger one closes its connection.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=Limits().batch_requests,
    show_default=True,
    help="Requests in one batch.",
)
@click.option(
    "--max-subscriptions",
    type=click.IntRange(1),
    default=Limits().subscriptions,
    show_default=True,
    help="Live streams of one connection.",
)
@click.option(
    "--max-nesting",
    type=click.IntRange(8, MAX_NESTING_LIMIT),
    default=Limits().nesting,
    show_default=True,
    help="Levels of arrays and objects in a message.",
)
@click.option(
    "--max-unread-bytes",
    type=click.IntRange(1024),
    default=Limits().unread_bytes,
    show_default=True,
    help="What may wait for one client to read it.",
)
@server_options
@click.option(
    "--no-auto-register",
    is_flag=True,
    help="Leave out the built-in entry for the local hub, plexus at ws://127.0.0.1:4444.",
)
@click.option(
    "--backends",
    "env_backends",
    default="",
    envvar="REGISTRY_BACKENDS",
    show_envvar=True,
    help="Backends to state: dev=ws://192.168.1.100:4444,prod=wss://plexus.example.com:4444",
)
@click.pass_context
def serve(
    ctx: click.Context,
    *,
    port: int,
    host: str,
    db_path: Path,
    start_empty: bool,
    config_path: Path,
    log_level: dict[str, int],
    hub_namespace: str,
    poll_interval: float,
    stale_after: float,
    sweep_interval: float,
    max_message_bytes: int,
    max_batch: int,
    max_subscriptions: int,
    max_nesting: int,
    max_unread_bytes: int,
    no_auto_register: bool,
    env_backends: str,
    **probing: Unpack[ProbeValues],
) -> None:
    """Serve the registry (what `trio-registry` does without a verb).

    It stops at Ctrl-C or SIGTERM: requests that are running finish, and nothing that was
    acknowledged is lost. At SIGHUP it reads the config file and the certificate again.
    """
    _set_up_logging(log_level)
    settings = Settings(
        host=host,
        port=port,
        db_path=db_path,
        start_empty=start_empty,
        config_path=config_path,
        env_backends=env_backends,
        hub_namespace=hub_namespace,
        poll_interval=poll_interval,
        stale_after=stale_after,
        sweep_interval=sweep_interval,
        auto_register=not no_auto_register,
        limits=Limits(
            message_bytes=max_message_bytes,
            batch_requests=max_batch,
            subscriptions=max_subscriptions,
            nesting=max_nesting,
            unread_bytes=max_unread_bytes,
        ),
        server=server_settings(ctx),
        **probing,
    )
    is_given = ctx.get_parameter_source("config_path") is not ParameterSource.DEFAULT
    if is_given and not os.path.lexists(config_path):
        log.warning(
            "config file %s does not exist: what it states counts once it is there",
            escaped(str(config_path)),
        )
    import trio

    from plexus_registry.app import run

    async def main() -> None:
        await run(settings, say=click.echo)

    try:
        trio.run(main)
    except RegistryError as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:  # noqa: BLE001 - the last line of a process that a bug ends
        logging.getLogger(__name__).critical("stopped by a bug: %r", error)
        sys.exit(EXIT_BUG)
