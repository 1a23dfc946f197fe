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

    follower = _Follower(session, since)
    try:
        with failures_explained(session):
            trio.run(follower.follow, name, namespace)
    except VerbError as failure:
        if not follower.is_watching or follower.revision is None:
            raise
        hint = f"go on with --since {follower.revision}"
        raise VerbError(f"{follower.loss}; {hint}", EXIT_NO_ANSWER) from failure


class _Follower:
    """Prints the events of a watch, and remembers the last revision."""

    def __init__(self, session: Session, since: int | None) -> None:
        self.is_watching = False
        self.revision = since
        self.loss = ""
        self._session = session

    async def follow(self, name: str | None, namespace: str | None) -> None:
        """Print events until the watch or its connection ends.

        Raises:
            RegistryUnavailableError: The connection ended, or the watch with it.
        """
        import trio

        from plexus_registry.client.connection import connect
        from plexus_registry.rules.errors import RegistryUnavailableError, WatchEnded

        token = self._session.token
        with trio.fail_after(self._session.timeout) as scope:
            async with connect(self._session.url, token=token) as client:
                watching = client.watch(since=self.revision, name=name, namespace=namespace)
                async with watching as events:
                    scope.deadline = float("inf")
                    self.is_watching = True
                    try:
                        async for event in events:
                            self._show(event)
                    except (WatchEnded, RegistryUnavailableError) as error:
                        self.loss = str(error)
                        raise RegistryUnavailableError(self.loss) from error

    def _show(self, event: WatchEvent) -> None:
        if self._session.as_json:
            echo_json(event)
        else:
            echo(in_words(event))
        # Only printed changes were seen; those that `Compacted` leaves out are in the snapshot.
        if not isinstance(event, Compacted):
            self.revision = event.revision


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
