"""The results of a probe: its steps and its outcome."""

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
    """The backend may not be probed, or wants a credential first.

    Attributes:
        reason: Why.
        wants_credential: Whether it was asked, and wants a credential first.
    """

    reason: str
    wants_credential: bool = False


class Untried(msgspec.Struct, frozen=True, kw_only=True):
    """This machine lacked what a probe needs; `reason` says what. It says nothing of the hub."""

    reason: str


Outcome = Answered | Unanswered | Unchecked | Untried


class Report:
    """The result of one probe.

    Attributes:
        outcome: The outcome.
    """

    __slots__ = ("_noted", "outcome")

    def __init__(self, outcome: Outcome, noted: Sequence[tuple[str, bool, float, str]]) -> None:
        """Keep the outcome and the notes.

        Args:
            outcome: The outcome.
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
