"""The verb `log`: the history, one line a change, oldest first."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from plexus_registry.cli.display import echo, echo_json, escaped
from plexus_registry.cli.session import (
    EXIT_NO_ANSWER,
    Session,
    VerbError,
    client_options,
    failures_explained,
)

if TYPE_CHECKING:
    from plexus_registry.client.connection import RegistryClient
    from plexus_registry.rules.events import LoggedChange

LINES = 20
"""How many changes are shown if nothing says how many."""
_PAGE = 1000
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|min|h|d)", re.ASCII)
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


class Since(NamedTuple):
    """After what the changes are shown: a revision, or a time in Unix milliseconds."""

    revision: int = 0
    at: float = 0

    def is_before(self, change: LoggedChange) -> bool:
        """Whether a change is to be shown."""
        return change.revision > self.revision and (change.at or 0) >= self.at


def _since(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Since | None:
    """Read `17`, `90min` or `2026-11-25T02:00`."""
    if text is None:
        return None
    if text.isdecimal():
        return Since(revision=int(text))
    if span := _SPAN.fullmatch(text):
        return Since(at=(time.time() - float(span[1]) * _SECONDS[span[2]]) * 1000)
    try:
        return Since(at=datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{text!r} is no time ago (1h), no ISO time and no revision"
        ) from error


@click.command(
    epilog="""\b
Examples:
  trio-registry log
  trio-registry log hub2 --since 1h
  trio-registry log --follow
"""
)
@click.argument("name", required=False)
@click.option(
    "--since",
    callback=_since,
    metavar="WHEN",
    help="Only changes after that: 90s, 30min, 1h, 2d, an ISO time, or a revision.",
)
@click.option(
    "-n",
    "lines",
    type=click.IntRange(0),
    metavar="N",
    help=f"At most the last N changes; by default {LINES}, or all with --since.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on with each new change.")
@client_options
def log(
    session: Session,
    *,
    name: str | None,
    since: Since | None,
    lines: int | None,
    follow: bool,
) -> None:
    """Show what changed, when, and who did it.

    Each line has the local time, the revision and the change. With --json, each change is one line
    of JSON.
    """
    import trio

    most = lines if lines is not None else None if since is not None else LINES
    with failures_explained(session):
        trio.run(_show, session, name, since, most, follow)


async def _show(
    session: Session, name: str | None, since: Since | None, most: int | None, follow: bool
) -> None:
    import trio

    from plexus_registry.client.connection import connect
    from plexus_registry.rules.errors import RegistryUnavailableError, WatchEnded

    with trio.fail_after(session.timeout) as scope:
        async with connect(session.url, token=session.token) as client:
            changes = await _changes(client, name, since, most)
            seen = client.revision or 0
            _print(session, changes)
            if not follow:
                return
            scope.deadline = float("inf")
            try:
                async with client.watch(since=seen, name=name) as events:
                    async for event in events:
                        if event.revision > seen:
                            changes = await _changes(client, name, Since(seen), None)
                            seen = max([event.revision, *(each.revision for each in changes)])
                            _print(session, changes)
            except (WatchEnded, RegistryUnavailableError) as error:
                raise VerbError(f"{error}; go on with --since {seen}", EXIT_NO_ANSWER) from error


async def _changes(
    client: RegistryClient, name: str | None, since: Since | None, most: int | None
) -> list[LoggedChange]:
    """Ask for changes page by page, and return them newest first."""
    found: list[LoggedChange] = []
    before = None
    while most is None or len(found) < most:
        page = await client.history(name=name, before=before, limit=min(most or _PAGE, _PAGE))
        if not page:
            break
        before = page[-1].revision
        found += [each for each in page if since is None or since.is_before(each)]
        # Revisions only grow; the clock may have been set back.
        if since is not None and before <= since.revision:
            break
    return found if most is None else found[:most]


def _print(session: Session, changes: list[LoggedChange]) -> None:
    from plexus_registry.rules.history import in_words

    for change in reversed(changes):
        if session.as_json:
            echo_json(change)
            continue
        local = "-" if change.at is None else _local_time(change.at)
        echo(f"{local:19}  {change.revision:>6}  {escaped(in_words(change))}")


def _local_time(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at / 1000))
