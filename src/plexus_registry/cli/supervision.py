"""Run a command beside its announcement. Importing this module loads Trio."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING

import msgspec
import trio

from plexus_registry.cli.logs import set_up_logging
from plexus_registry.client.announce import announce

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from plexus_registry.rules.backend import Declaration

log = logging.getLogger(__name__)

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)


def run_announced(
    service: Declaration, command: Sequence[str], *, url: str, token: str | None, stale_after: float
) -> int:
    """Announce a command while it runs, and return the exit status that a shell would show for it.

    Raises:
        OSError: The command cannot be run.
    """
    set_up_logging("trio-registry announce: %(message)s", {})

    async def keep_announced() -> None:
        try:
            async with announce(
                url, **msgspec.structs.asdict(service), stale_after=stale_after, token=token
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
