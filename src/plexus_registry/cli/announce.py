"""`trio-registry announce`: a command, registered for as long as it runs.

Theory of operation. The command is started first: a command that cannot run is never announced,
and a registry that does not answer delays nothing. The command shares the terminal and the standard
streams with this process, which only waits, passes signals on, and keeps the announcement. A
failure of the announcement never ends the command.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from plexus_registry.cli.display import set_up_logging
from plexus_registry.cli.session import (
    EXIT_USAGE,
    PORT,
    PROTOCOL,
    Session,
    VerbError,
    address_options,
    detail_options,
    failures_explained,
    keep_rule,
)
from plexus_registry.rules.backend import DECLARABLE, FIELDS, Declaration
from plexus_registry.rules.errors import shown
from plexus_registry.rules.parameters import SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import trio

log = logging.getLogger(__name__)

FORWARDED = tuple(
    signal.Signals[f"SIG{name}"] for name in ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")
)
FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)

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
    "--host", default="127.0.0.1", show_default=True, help="The host on which others can reach it."
)
@click.option(
    "--protocol", type=PROTOCOL, default="ws", show_default=True, help="How to connect to it."
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
def announce(
    session: Session,
    /,
    *,
    stale_after: float,
    command: tuple[str, ...],
    **stated: str | int | None,
) -> None:
    """Run a command, registered for as long as it runs.

    Any program that listens on a port can be found this way. It is pinged while COMMAND runs,
    registered again whenever the registry comes back or forgot it, and deregistered at the end.
    SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to COMMAND.

    A registry that is down never stops COMMAND: standard error says once that it is down, and
    once that it is back.
    """
    from plexus_registry.client.socket import parse_url

    service = msgspec.convert(stated, Declaration)
    # The registry would refuse wrong values again and again, while the command runs.
    for option in DECLARABLE:
        value, values = getattr(service, option), FIELDS[option].values
        if value is not None and not values.accepts(value):
            reason = f"--{option} is {shown(value)}: it must be {values.rule}"
            raise VerbError(reason, EXIT_USAGE)
    with failures_explained(session):
        parse_url(session.url)
    try:
        status = _run_announced(service, command, session, stale_after)
    except OSError as error:
        raise _cannot_run(command[0], error) from error
    sys.exit(status)


def _cannot_run(program: str, error: OSError) -> VerbError:
    if not isinstance(error, FileNotFoundError):
        reason, status = error.strerror, EXIT_CANNOT_RUN
    elif Path(program).is_file():
        reason, status = "the interpreter that it names does not exist", EXIT_CANNOT_RUN
    else:
        reason, status = "there is no such command", EXIT_NO_COMMAND
    return VerbError(f"cannot run {program}: {reason}", status)


def _run_announced(
    service: Declaration, command: Sequence[str], session: Session, stale_after: float
) -> int:
    """Announce a command while it runs, and return the exit status that a shell would show for it.

    Raises:
        OSError: The command cannot be run.
    """
    import trio

    from plexus_registry.client.announce import announce as announced

    token = session.token
    set_up_logging("trio-registry announce: %(message)s", {})

    async def keep_announced() -> None:
        try:
            async with announced(
                session.url, **msgspec.structs.asdict(service), stale_after=stale_after, token=token
            ):
                await trio.sleep_forever()
        except Exception:
            log.exception("a bug ended the announcement; the command goes on running")

    async def supervise() -> int:
        # A signal that was ignored when we started (nohup) stays ignored, for the command as well.
        heard = [each for each in FORWARDED if signal.getsignal(each) is not signal.SIG_IGN]
        # These do not reach the command: it does not run yet.
        early: list[int] = []
        for each in heard:
            signal.signal(each, lambda number, _: early.append(number))
        process = await trio.lowlevel.open_process([*command])
        with trio.open_signal_receiver(*heard) if heard else nullcontext() as signals:
            for number in early:
                process.send_signal(signal.Signals(number))
            async with trio.open_nursery() as nursery:
                if signals is not None:
                    nursery.start_soon(_forward, signals, process)
                nursery.start_soon(keep_announced)
                status = await process.wait()
                nursery.cancel_scope.cancel()
        # The command has ended, and this process ends with its exit status: later signals are
        # ignored. Trio passes those that it still holds to the handlers from above.
        for each in heard:
            signal.signal(each, signal.SIG_IGN)
        return status if status >= 0 else 128 - status

    return trio.run(supervise)


async def _forward(signals: AsyncIterator[int], process: trio.Process) -> None:
    async for number in signals:
        # Ctrl-C reaches every process in the foreground, and a second one means "at once".
        if number in FROM_KEYBOARD and _is_in_foreground():
            continue
        process.send_signal(signal.Signals(number))


def _is_in_foreground() -> bool:
    for stream in (0, 1, 2):
        try:
            return os.tcgetpgrp(stream) == os.getpgrp()
        except OSError:
            continue  # no terminal, or none of ours
    return False
