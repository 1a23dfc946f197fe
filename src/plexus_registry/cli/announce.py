"""`trio-registry announce`: a command, registered for as long as it runs.

Theory of operation. The command is started first: a command that cannot run is never announced,
and a registry that does not answer delays nothing. The command shares the terminal and the standard
streams with this process, which only waits, passes signals on, and keeps the announcement. A
failure of the announcement never ends the command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plexus_registry.cli.session import (
    EXIT_USAGE,
    PORT,
    PROTOCOL,
    Session,
    VerbError,
    address_options,
    detail_options,
    keep_rule,
    pass_session,
)
from plexus_registry.rules.parameters import SECONDS

if TYPE_CHECKING:
    from plexus_registry.rules.backend import Declaration

EXIT_CANNOT_RUN = 126
EXIT_NO_COMMAND = 127

EPILOG = """\b
Examples:
  trio-registry announce --name hub2 --port 5001 -- ./hub2 --port 5001
  trio-registry announce --name web --port 8080 --host web.example.com -- nginx -g 'daemon off;'

\b
Exit status:
  that of COMMAND, or 128 and the number of the signal that ended it
  2    the command line is wrong; COMMAND was not run
  126  COMMAND cannot be run
  127  there is no COMMAND
"""


@click.command(epilog=EPILOG, context_settings={"allow_interspersed_args": False})
@click.option("--name", required=True, help="The name to register.")
@click.option("--port", type=PORT, required=True, help="The port on which it listens.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The host on which others can reach it.",
)
@click.option(
    "--protocol",
    type=PROTOCOL,
    default="ws",
    show_default=True,
    help="How to connect to it.",
)
@detail_options
@click.option(
    "--stale-after",
    type=float,
    callback=keep_rule(SECONDS),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="The --stale-after of the registry; the command is pinged three times as often.",
)
@address_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_session
def announce(
    session: Session,
    /,
    *,
    name: str,
    port: int,
    host: str,
    protocol: str,
    stale_after: float,
    command: tuple[str, ...],
    **details: str | None,
) -> None:
    """Run a command, registered for as long as it runs.

    Any program that listens on a port can be found this way. It is pinged while COMMAND runs,
    registered again whenever the registry comes back or forgot it, and deregistered at the end.
    SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to COMMAND.

    A registry that is down never stops COMMAND: standard error says once that it is down, and
    once that it is back.
    """
    from plexus_registry.cli.supervision import run_announced
    from plexus_registry.client.socket import parse_url
    from plexus_registry.rules.backend import Declaration
    from plexus_registry.rules.errors import UrlError

    service = Declaration(name=name, host=host, port=port, protocol=protocol, **details)
    _check(service)
    try:
        parse_url(session.url)
    except UrlError as error:
        raise VerbError(f"{error}, with --url or in REGISTRY_URL", EXIT_USAGE) from error
    try:
        status = run_announced(
            service, command, url=session.url, token=session.token, stale_after=stale_after
        )
    except FileNotFoundError as error:
        if Path(command[0]).is_file():
            reason = "the interpreter that it names does not exist"
            raise VerbError(f"cannot run {command[0]}: {reason}", EXIT_CANNOT_RUN) from error
        raise VerbError(
            f"cannot run {command[0]}: there is no such command", EXIT_NO_COMMAND
        ) from error
    except OSError as error:
        raise VerbError(f"cannot run {command[0]}: {error.strerror}", EXIT_CANNOT_RUN) from error
    sys.exit(status)


def _check(service: Declaration) -> None:
    """Check the values before the command runs: the registry would refuse them all the time."""
    from plexus_registry.rules.backend import DECLARABLE, FIELDS
    from plexus_registry.rules.errors import shown

    for option in DECLARABLE:
        value, values = getattr(service, option), FIELDS[option].values
        if value is not None and not values.accepts(value):
            reason = f"--{option} is {shown(value)}: it must be {values.rule}"
            raise VerbError(reason, EXIT_USAGE)
