"""The results of probes, the states of a backend, and the table of the signs that change them.

Theory of operation. A backend is in one of six states; `unknown` and `up` are active, the others
inactive. A ping or an answered probe is evidence of life until it lapses: a ping lapses by silence,
a probe if several in a row fail. `tracker` combines the evidence into a sign; this table maps a
sign and a state to the next state. A ping alone does not end `wrong_hub`: the address must be
corrected first. Failing probes do not end `deregistered`: a goodbye says more than a failure.

Source: manual/health.md, "States".
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from plexus_registry.rules.backend import ACTIVE_STATES, Backend, Health, State
from plexus_registry.rules.errors import shown

if TYPE_CHECKING:
    from collections.abc import Mapping


class Sign(StrEnum):
    """What the evidence says, all kinds of it taken together."""

    PING = "a ping"
    ANSWER = "a probe is answered with the right name"
    OTHER_NAME = "a probe is answered with another name"
    NO_ANSWER = "probes in a row fail, and no ping speaks for it"
    SILENCE = "no ping in time, and no probe speaks for it"
    GOODBYE = "`deregister`"
    FAREWELL = "the first probe after an early goodbye fails"
    NO_CHECK = "it cannot be probed"


RULES: dict[Sign, dict[State, State]] = {
    Sign.PING: {
        State.UNKNOWN: State.UP,
        State.DOWN: State.UP,
        State.DEREGISTERED: State.UP,
        State.STALE: State.UP,
    },
    Sign.ANSWER: dict.fromkeys(State, State.UP),
    Sign.OTHER_NAME: dict.fromkeys(State, State.WRONG_HUB),
    Sign.NO_ANSWER: {
        State.UNKNOWN: State.DOWN,
        State.UP: State.DOWN,
        State.WRONG_HUB: State.DOWN,
    },
    Sign.SILENCE: {State.UNKNOWN: State.STALE, State.UP: State.STALE},
    Sign.GOODBYE: dict.fromkeys(State, State.DEREGISTERED),
    Sign.FAREWELL: {State.UP: State.DEREGISTERED},
    Sign.NO_CHECK: {State.DOWN: State.UNKNOWN, State.WRONG_HUB: State.UNKNOWN},
}
"""What a sign makes of a state; a state that is not named stays as it is."""

_CHANGED_BY_PING = RULES[Sign.PING].keys()


def ping_changes(backend: Backend) -> bool:
    """Whether a ping changes more of a backend than when it was last seen; most do not."""
    return backend.state in _CHANGED_BY_PING and (
        backend.health is not None or not backend.is_active
    )


def after_sign(
    backend: Backend,
    sign: Sign | None,
    *,
    now: int,
    reason: str | None = None,
    seen: Mapping[str, object] | None = None,
) -> Backend:
    """Return a backend as it is after a sign: with its new `is_active` and `health`.

    Args:
        backend: The backend before it.
        sign: The sign; None if the evidence decides nothing.
        now: Unix seconds.
        reason: Why, if the sign has a reason.
        seen: Members of `Health` that are known anew, by name.
    """
    former = backend.health
    before = backend.state
    state = before if sign is None else RULES[sign].get(before, before)
    if former is None:
        former = Health(state=before, since=backend.updated_at, failures=0)
    learned: dict[str, object] = {**(seen or {}), "reason": reason}
    if state is not before or backend.health is None:
        learned.update(state=state, since=now)
    health = msgspec.structs.replace(former, **learned)
    return msgspec.structs.replace(backend, is_active=state in ACTIVE_STATES, health=health)


def durable(health: Health) -> Health:
    """Return the part that is stored: the state, without the last probe."""
    return msgspec.structs.replace(health, last_probe=None, latency_ms=None, failures=0)


def differs(before: Backend, after: Backend) -> bool:
    """Whether a backend differs in a field that is worth a write and an event after a probe."""
    if before.is_active is not after.is_active or before.version != after.version:
        return True
    known, learned = before.health, after.health
    if learned is None:
        return known is not None
    if known is None:
        return learned.state is not before.state or learned.schema_hash is not None
    return (
        known.state is not learned.state
        or known.since != learned.since
        or known.schema_hash != learned.schema_hash
    )


RESOLVE, CONNECT, UPGRADE, INFO, NAME = STEPS = ("resolve", "connect", "upgrade", "_info", "name")
"""The steps of a probe; each needs the one before it."""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a probe.

    Attributes:
        step: Which; one of `STEPS`.
        ok: Whether it went well.
        ms: How long it took, in milliseconds.
        detail: What came out, or what failed.
    """

    step: str
    ok: bool
    ms: float
    detail: str


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A hub answered.

    Attributes:
        name: The name that it gives.
        latency_ms: How long the whole probe took, in milliseconds.
        version: Its version, if it gives one.
        schema_hash: The hash of its schema, if it gives one.
    """

    name: str
    latency_ms: float
    version: str | None = None
    schema_hash: str | None = None


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """No hub answered in time; `reason` says at which step, and why."""

    reason: str


class Unchecked(msgspec.Struct, frozen=True, kw_only=True):
    """The backend may not be probed, or it was asked, and wants a credential first."""

    reason: str
    wants_credential: bool = False


class Untried(msgspec.Struct, frozen=True, kw_only=True):
    """This machine lacked what a probe needs; `reason` says what. It says nothing of the hub."""

    reason: str


Outcome = Answered | Unanswered | Unchecked | Untried


class Report(NamedTuple):
    """The outcome of one probe, and its steps as far as it came."""

    outcome: Outcome
    steps: tuple[Step, ...]


def milliseconds(seconds: float) -> float:
    """Convert a duration to milliseconds, rounded as it is shown."""
    return round(seconds * 1000, 1)


def is_answer_of(backend: Backend, answer: Answered) -> bool:
    """Whether the hub that answered is the one that a backend stands for.

    Clients look for a hub of the backend's own name. A registration that states another
    namespace is taken at its word, too.
    """
    return answer.name in (backend.name, backend.namespace)


def other_name(backend: Backend, answer: Answered) -> str:
    """Explain that another hub answered than the one that was looked for."""
    return f"it answers as {shown(answer.name)}, not as {shown(backend.name)}"
