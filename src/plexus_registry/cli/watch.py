"""`trio-registry watch`: the changes, one line each, until it is interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from plexus_registry.cli.display import (
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
    pass_session,
)

if TYPE_CHECKING:
    from plexus_registry.cli.calls import CallResult

WORDS = {
    "backend_registered": "registered",
    "backend_updated": "updated",
    "backend_deleted": "deleted",
    "backend_stale": "inactive",
    "backend_active": "active",
    "reloaded": "config read",
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
    help="Only what happened after this revision, without what there was at that time.",
)
@click.option("--name", help="Only what happens to this backend.")
@click.option("--namespace", help="Only what happens to backends of this namespace.")
@client_options
@pass_session
def watch(session: Session, *, since: int | None, name: str | None, namespace: str | None) -> None:
    """Follow the changes, one line each.

    First comes what there is, then each change with its revision, in the order in which they
    happened. It ends with Ctrl-C, or with the connection: its last line then says how to go on
    without missing anything. --timeout is how long the first answer may take.
    """
    import trio

    from plexus_registry.cli.calls import failures_explained

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
    """Prints what a watch brings, and remembers how far it came."""

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
        import msgspec
        import trio

        from plexus_registry.cli.calls import answer_from
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
                            self._show(answer_from(msgspec.to_builtins(event)))
                    except (WatchEnded, RegistryUnavailableError) as error:
                        self.loss = str(error)
                        raise RegistryUnavailableError(self.loss) from error

    def _show(self, event: CallResult) -> None:
        if self._session.as_json:
            echo_json(event.raw)
        else:
            echo(in_words(event))
        # Only what was printed was seen; what was compacted is in the snapshot after it.
        if event.revision is not None and event.type != "compacted":
            self.revision = event.revision


def in_words(event: CallResult) -> str:
    """Write an event for people."""
    if event.type == "snapshot":
        shown = (
            table(event.backends, columns=terminal_columns()) if event.backends else "No backends."
        )
        return f"{shown}\n\nThis is revision {event.revision}; the changes follow."
    if event.type == "compacted":
        return "Some changes are no longer known. What there is now:"
    word = WORDS.get(event.type, escaped(event.type)).ljust(_WIDTH)
    return f"{event.revision:>6}  {word}  {_subject(event)}".rstrip()


def _subject(event: CallResult) -> str:
    if event.backend is not None:
        backend = event.backend
        inactive = "" if backend.is_active else f"  {state(backend)}"
        return f"{escaped(backend.name)}  {escaped(backend.url)}{inactive}"
    if event.name is not None:
        return escaped(event.name)
    changed = {"added": event.added, "updated": event.updated, "removed": event.removed}
    return "; ".join(
        f"{word} {', '.join(map(escaped, names))}" for word, names in changed.items() if names
    )
