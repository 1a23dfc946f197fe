"""What the change log holds: as the answer of `registry.history`, and each change in words.

Source: manual/history.md, "The method".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plexus_registry.rules.backend import FIELDS
from plexus_registry.rules.errors import shown
from plexus_registry.rules.events import Origin, encode_value
from plexus_registry.rules.parameters import is_name

if TYPE_CHECKING:
    from plexus_registry.rules.backend import Backend
    from plexus_registry.rules.change_log import ChangeLog, Entry
    from plexus_registry.rules.events import Cause, LoggedChange
    from plexus_registry.rules.methods import History

DEFAULT_LIMIT = 100
MAX_CHARACTERS = 4 * 1024 * 1024
"""No more changes are put into an answer that is longer than this."""


def encode_history(change_log: ChangeLog, command: History) -> str:
    """Make the event that answers `history`, as JSON text."""
    changes: list[str] = []
    size = 0
    for entry in reversed(change_log):
        if len(changes) == (command.limit or DEFAULT_LIMIT) or size > MAX_CHARACTERS:
            break
        if _is_wanted(entry, command):
            changes.append(_encode(entry))
            size += len(changes[-1])
    return f'{{"type":"history","revision":{change_log.revision},"changes":[{",".join(changes)}]}}'


def _is_wanted(entry: Entry, command: History) -> bool:
    return (
        (command.before is None or entry.revision < command.before)
        and (command.name is None or command.name == entry.name)
        and (command.namespace is None or command.namespace in entry.namespaces)
    )


def _encode(entry: Entry) -> str:
    kind = entry.head.split('"', 4)[3]  # {"type":"...
    at = "null" if entry.at is None else entry.at
    return (
        f'{{"revision":{entry.revision},"at":{at},"type":"{kind}",'
        f'"name":{encode_value(entry.name)},"before":{entry.before or "null"},'
        f'"after":{entry.after or "null"},"by":{entry.by or "null"}}}'
    )


def in_words(change: LoggedChange) -> str:
    """Describe a change on one line, for the log and for people."""
    by = f" ({_who(change.by)})" if change.by else ""
    if change.name is None:
        what = "the config file was read" if change.type == "reloaded" else "a new history begins"
        return f"{what}{by}"
    name = change.name if is_name(change.name) else shown(change.name)
    return f"{name}: {_what(change)}{by}"


def _what(change: LoggedChange) -> str:
    before, after = change.before, change.after
    if after is None:
        return "deleted"
    if change.type == "backend_registered":
        state = "" if after.is_active else f", {_state(after)}"
        return f"registered at {_url(after)}{state}"
    if before is None:  # an older version noted the change
        return f"changed, now at {_url(after)}, {_state(after)}"
    changes = [
        f"{field} {_value(old)} -> {_value(new)}"
        for field in FIELDS
        if field != "metadata" and (old := getattr(before, field)) != (new := getattr(after, field))
    ]
    if before.metadata != after.metadata:
        changes.append("other metadata")
    if before.state is not after.state or before.is_active != after.is_active:
        changes.append(f"state {before.state} -> {_state(after)}")
    return ", ".join(changes) or "written again with the same values"


def _value(value: object) -> str:
    return "none" if value is None else shown(value)


def _state(backend: Backend) -> str:
    reason = backend.health and backend.health.reason
    return f"{backend.state}: {reason}" if reason else backend.state


def _url(backend: Backend) -> str:
    return shown(backend.url)[1:-1]


def _who(by: Cause) -> str:
    if by.origin is not Origin.CALL:
        return _ORIGINS[by.origin]
    peer = f"from {by.peer}" if by.peer else "in this process"
    token = f", {by.token} token" if by.token not in (None, "none") else ""
    return f"{by.method} {peer}{token}"


_ORIGINS = {
    Origin.FILE: "config file",
    Origin.ENV: "environment",
    Origin.AUTO: "built-in entry",
    Origin.PROBE: "probe",
    Origin.SILENCE: "no ping in time",
    Origin.START: "start with an older copy of the database",
}
