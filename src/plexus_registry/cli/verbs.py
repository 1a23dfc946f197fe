"""The client verbs; each is a method of the registry. All but `watch` make one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from plexus_registry.cli.display import (
    changed_names,
    checked,
    details,
    echo,
    echo_json,
    escaped,
    state,
    table,
    terminal_columns,
)
from plexus_registry.cli.session import (
    EXIT_NO_ANSWER,
    PORT,
    PROTOCOL,
    Session,
    VerbError,
    call,
    change_options,
    client_options,
    detail_options,
    failures_explained,
)
from plexus_registry.rules import events
from plexus_registry.rules.errors import RegistryUnavailableError, WatchEnded

if TYPE_CHECKING:
    from plexus_registry.client.exchange import WatchEvent
    from plexus_registry.rules.backend import Backend

NAME = click.argument("name")


def _say(session: Session, text: str) -> None:
    """Print for people, if no program reads the output."""
    if not session.as_json:
        echo(text)


def _where(backend: Backend) -> str:
    return f"{escaped(backend.name)} at {escaped(backend.url)}"


@click.command(epilog="Example: trio-registry list --all")
@click.option("--all", "everything", is_flag=True, help="Show inactive backends too.")
@client_options
def list_backends(session: Session, *, everything: bool) -> None:
    """List the backends, newest first.

    STATE is the result of pings and probes, SINCE how long it has been the same, LATENCY how long
    the last probe took, and SEEN the last sign of life.
    """
    answer = call(session, "list", events.Listed, active_only=not everything)
    if answer.backends:
        _say(session, table(answer.backends, columns=terminal_columns()))
    elif not session.as_json:
        hint = "" if everything else "; --all shows inactive ones, too"
        click.echo(f"No backends{hint}.", err=True)


@click.command(epilog="Example: trio-registry get hub2 --json")
@NAME
@client_options
def get(session: Session, name: str) -> None:
    """Show one backend.

    The exit status is 1 if no backend has the name.
    """
    backend = call(session, "get", events.Found, name=name).backend
    if backend is None:
        raise VerbError(
            f"there is no backend {name}; trio-registry list --all shows those that there are"
        )
    _say(session, details(backend))


@click.command(epilog="Example: trio-registry register hub2 127.0.0.1 5001 --description 'My hub'")
@NAME
@click.argument("host")
@click.argument("port", type=PORT)
@click.option("--protocol", type=PROTOCOL, default="ws", show_default=True, help="How to connect.")
@detail_options
@click.option("--replace", is_flag=True, help="Take the name even from a live backend.")
@client_options
def register(session: Session, /, *, replace: bool, **stated: str | int | None) -> None:
    """Register a backend under a name.

    It stays until it is deleted. To register a program for just as long as it runs, use
    `trio-registry announce`.
    """
    # `replace` is only sent if it is wanted: the original knows no such parameter.
    wanted = replace or None
    answer = call(session, "register", events.BackendRegistered, **stated, replace=wanted)
    _say(session, f"Registered {_where(answer.backend)}")


@click.command(epilog="Example: trio-registry update hub2 --port 5002 --description ''")
@NAME
@change_options
@client_options
def update(session: Session, /, *, name: str, **changes: str | int | None) -> None:
    """Change fields of a backend.

    Fields that are not given stay as they are.
    """
    if all(value is None for value in changes.values()):
        options = ", ".join(f"--{option}" for option in changes)
        raise click.UsageError(f"Nothing to change: give at least one of {options}.")
    answer = call(session, "update", events.BackendUpdated, name=name, **changes)
    _say(session, f"Updated {_where(answer.backend)}")


@click.command(epilog="Example: trio-registry delete hub2")
@NAME
@client_options
def delete(session: Session, name: str) -> None:
    """Delete a backend until it is registered again.

    To keep its entry, and only make it inactive, use `trio-registry deregister`.
    """
    call(session, "delete", events.BackendDeleted, name=name)
    _say(session, f"Deleted {escaped(name)}")


@click.command(epilog="Example: trio-registry deregister hub2")
@NAME
@client_options
def deregister(session: Session, name: str) -> None:
    """Make a backend inactive; its entry stays.

    It becomes active again when it registers or pings.
    """
    call(session, "deregister", events.BackendDeregistered, name=name)
    _say(session, f"Deregistered {escaped(name)}: its entry stays, inactive")


@click.command(epilog="Example: trio-registry ping hub2")
@NAME
@client_options
def ping(session: Session, name: str) -> None:
    """Report that a backend is alive.

    Nothing connects to the backend. Once a backend was pinged, it must be pinged again and again,
    or it becomes inactive.
    """
    if not call(session, "ping", events.Pinged, name=name).success:
        raise VerbError(f"there is no backend {name}; register it first")
    _say(session, f"Pinged {escaped(name)}")


@click.command(epilog="Example: trio-registry check hub2")
@NAME
@client_options
def check(session: Session, name: str) -> None:
    """Probe a backend now, and show each step.

    The registry connects, not this command. The exit status is 1 if a step failed.
    """
    answer = call(session, "check", events.Checked, name=name)
    _say(session, checked(answer.steps))
    if not answer.ok:
        failed = answer.steps[-1]
        raise VerbError(f"{name} fails at {failed.step}: {failed.detail}")
    at = f" at {escaped(answer.backend.url)}" if answer.backend else ""
    _say(session, f"{escaped(name)}{at} is there")


@click.command(epilog="Example: trio-registry reload")
@client_options
def reload(session: Session) -> None:
    """Make the registry read its config file now.

    The registry watches the file by itself. This verb shows errors of the file at once, and brings
    back backends of the file that were deleted.
    """
    answer = call(session, "reload", events.Reloaded)
    backends = "1 backend" if answer.count == 1 else f"{answer.count} backends"
    changes = changed_names(answer) or "nothing changed"
    _say(session, f"The config file states {backends}: {changes}")


@click.command(
    epilog="""\b
Examples:
  trio-registry watch
  trio-registry watch --name hub2
  trio-registry watch --json --since 17 | while read -r event; do ...; done
"""
)
@click.option(
    "--since",
    type=click.IntRange(0),
    metavar="REVISION",
    help="Only changes after this revision, without a list at the start.",
)
@click.option("--name", help="Only changes of this backend.")
@click.option("--namespace", help="Only changes of backends in this namespace.")
@client_options
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
            client.watch(since=since, name=name, namespace=namespace) as reports,
        ):
            scope.deadline = float("inf")
            try:
                async for event in reports:
                    if session.as_json:
                        echo_json(event)
                    else:
                        echo(_in_words(event))
                    # The changes that `Compacted` leaves out are in the snapshot after it.
                    if not isinstance(event, events.Compacted):
                        since = event.revision
            except (WatchEnded, RegistryUnavailableError) as error:
                if since is None:
                    raise RegistryUnavailableError(str(error)) from error
                hint = f"go on with --since {since}"
                raise VerbError(f"{error}; {hint}", EXIT_NO_ANSWER) from error


_CHANGES = {
    events.BackendRegistered: "registered",
    events.BackendUpdated: "updated",
    events.BackendDeleted: "deleted",
    events.BackendStale: "inactive",
    events.BackendActive: "active",
    events.Reloaded: "config read",
}
_WIDTH = max(map(len, _CHANGES.values()))


def _in_words(event: WatchEvent) -> str:
    match event:
        case events.Snapshot(backends=backends):
            shown = table(backends, columns=terminal_columns()) if backends else "No backends."
            return f"{shown}\n\nThis is revision {event.revision}; the changes follow."
        case events.Compacted():
            return "Some changes are no longer known. What there is now:"
        case events.BackendDeleted(name=name):
            subject = escaped(name)
        case events.Reloaded():
            subject = changed_names(event)
        case _:
            inactive = "" if event.backend.is_active else f"  {state(event.backend)}"
            subject = f"{escaped(event.backend.name)}  {escaped(event.backend.url)}{inactive}"
    return f"{event.revision:>6}  {_CHANGES[type(event)]:{_WIDTH}}  {subject}".rstrip()
