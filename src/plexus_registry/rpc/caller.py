"""Who is at the other end of a connection, as far as it matters to an answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One peer.

    Attributes:
        may_write: Whether it may change anything.
        refused: What is refused, counted by the name of the limit; all visitors share it.
    """

    may_write: bool = True
    refused: Counter[str] = field(default_factory=Counter)
