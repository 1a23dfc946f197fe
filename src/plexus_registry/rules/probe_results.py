"""What a probe found out, step by step, and what it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from plexus_registry.rules.errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plexus_registry.rules.backend import Backend

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
        name: What it calls itself.
        latency_ms: How long the whole probe took, in milliseconds.
        version: Its version, where it says one.
        schema_hash: The hash of what it offers, where it says one.
    """

    name: str
    latency_ms: float
    version: str | None = None
    schema_hash: str | None = None


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """No hub answered in time; `reason` says at which step, and why."""

    reason: str


class Unchecked(msgspec.Struct, frozen=True, kw_only=True):
    """The backend may not be asked, or does not let itself be asked.

    Attributes:
        reason: Why.
        wants_credential: Whether it was asked, and wants a credential first.
    """

    reason: str
    wants_credential: bool = False


class Untried(msgspec.Struct, frozen=True, kw_only=True):
    """This machine had nothing left to ask with; `reason` says what. The hub has no part in it."""

    reason: str


Outcome = Answered | Unanswered | Unchecked | Untried


class Report:
    """All that one probe found out.

    Attributes:
        outcome: What it comes to.
    """

    __slots__ = ("_noted", "outcome")

    def __init__(self, outcome: Outcome, noted: Sequence[tuple[str, bool, float, str]]) -> None:
        """Keep what was noted.

        Args:
            outcome: What it comes to.
            noted: Of each step its name, whether it went well, how many seconds it took, and
                what came out.
        """
        self.outcome = outcome
        self._noted = noted

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps; most probes are never asked for them."""
        return tuple(
            Step(step=step, ok=ok, ms=milliseconds(seconds), detail=detail)
            for step, ok, seconds, detail in self._noted
        )


def milliseconds(seconds: float) -> float:
    """Give a duration as it is shown."""
    return round(seconds * 1000, 1)


def is_answer_of(backend: Backend, answer: Answered) -> bool:
    """Whether the hub that answered is the one that a backend stands for.

    Clients look for a hub of the backend's own name. A registration that states another
    namespace is taken at its word, too.
    """
    return answer.name in (backend.name, backend.namespace)


def other_name(backend: Backend, answer: Answered) -> str:
    """Say that another hub answered than was looked for."""
    return f"it answers as {shown(answer.name)}, not as {shown(backend.name)}"
