"""`trio-registry watch`: prints the changes, one line each, until it is interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from plexus_registry.cli.display import (
    changed_names,
    echo,
    echo_json,
    escaped,
    state,
    table,
    terminal_columns,
)
from plexus_registry.cli.session import (
    EXIT_NO_ANSWER,
    Session,
    VerbError,
    client_options,
    failures_explained,
    pass_session,
)
from plexus_registry.rules.errors import RegistryUnavailableError, WatchEnded
from plexus_registry.rules.events import (
    BackendActive,
    BackendDeleted,
    BackendRegistered,
    BackendStale,
    BackendUpdated,
    Compacted,
    Reloaded,
    Snapshot,
)

if TYPE_CHECKING:
    from plexus_registry.client.exchange import WatchEvent

WORDS = {
    BackendRegistered: "registered",
    BackendUpdated: "updated",
    BackendDeleted: "deleted",
    BackendStale: "inactive",
    BackendActive: "active",
    Reloaded: "config read",
}
_WIDTH = max(map(len, WORDS.values()))

EPILOG = """\b
Examples:
  trio-registry watch
  trio-registry watch --name hub2
  trio-registry watch --json --since 17 | while read -r event; do ...; done
"""


@click.command(epilog=EPILOG)
@click.option(
    "--since",
    type=click.IntRange(0),
    metavar="REVISION",
    help="Only changes after this revision, without a list at the start.",
)
@click.option("--name", help="Only changes of this backend.")
@click.option("--namespace", help="Only changes of backends in this namespace.")
@client_options
@pass_session
def watch(session: Session, *, since: int | None, name: str | None, namespace: str | None) -> None:
    """Follow the changes, one line each.

    First comes a list of the backends, then each change with its revision, in order. It ends with
    Ctrl-C, or with the connection: its last line then says how to continue without a gap.
    --timeout is how long the first answer may take.
    """
    import trio

    with failures_explained(session):
        trio.run(_follow, session, since, name, namespace)


async def _follow(
    session: Session, since: int | None, name: str | None, namespace: str | None
) -> None:
    """Print events until the watch or its connection ends, and always raise then."""
    import trio

    from plexus_registry.client.connection import connect

    with trio.fail_after(session.timeout) as scope:
        async with (
            connect(session.url, token=session.token) as client,
            client.watch(since=since, name=name, namespace=namespace) as events,
        ):
            scope.deadline = float("inf")
            try:
                async for event in events:
                    if session.as_json:
                        echo_json(event)
                    else:
                        echo(in_words(event))
                    # Only printed changes were seen; those that `Compacted` leaves out are in the
                    # snapshot.
                    if not isinstance(event, Compacted):
                        since = event.revision
            except (WatchEnded, RegistryUnavailableError) as error:
                if since is None:
                    raise RegistryUnavailableError(str(error)) from error
                hint = f"go on with --since {since}"
                raise VerbError(f"{error}; {hint}", EXIT_NO_ANSWER) from error


def in_words(event: WatchEvent) -> str:
    """Write an event for people."""
    match event:
        case Snapshot(backends=backends):
            shown = table(backends, columns=terminal_columns()) if backends else "No backends."
            return f"{shown}\n\nThis is revision {event.revision}; the changes follow."
        case Compacted():
            return "Some changes are no longer known. What there is now:"
        case BackendDeleted(name=name):
            subject = escaped(name)
        case Reloaded():
            subject = changed_names(event)
        case _:
            inactive = "" if event.backend.is_active else f"  {state(event.backend)}"
            subject = f"{escaped(event.backend.name)}  {escaped(event.backend.url)}{inactive}"
    return f"{event.revision:>6}  {WORDS[type(event)]:{_WIDTH}}  {subject}".rstrip()
