"""The matcher of the golden exchanges: exact, but for placeholders.

Source: the first line of `vectors.jsonl`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HASH = re.compile(r"[0-9a-f]{16}")
# Any time from 2001 to 5138 counts in seconds; milliseconds are beyond it.
_SECONDS = range(10**9, 10**11)
CONTAINS = "<contains>"
UNBOUND = -1


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_PLACEHOLDERS: dict[str, Callable[[object], bool]] = {
    "<int>": lambda value: _is_integer(value) and value in range(2**53),
    "<ts>": lambda value: _is_integer(value) and value in _SECONDS,
    "<uuid>": lambda value: isinstance(value, str) and bool(_UUID.fullmatch(value)),
    "<hash>": lambda value: isinstance(value, str) and bool(_HASH.fullmatch(value)),
    "<str>": lambda value: isinstance(value, str),
    "<any>": lambda _: True,
}


@dataclass(slots=True)
class Matcher:
    """Compares what came with what one vector expects.

    Attributes:
        bound: The value that `<int>` stands for in this vector, once one was seen.
        differences: Where it differs, each with its path.
    """

    bound: object = UNBOUND
    differences: list[str] = field(default_factory=list)

    def compare(
        self, actual: object, expected: object, path: str = "$", *, loosely: bool = False
    ) -> None:
        """Compare two JSON values.

        Args:
            actual: What came.
            expected: What should have come, with placeholders.
            path: Where in the frame they are.
            loosely: Whether more members and more elements than expected may be there.
        """
        if isinstance(expected, dict) and expected.keys() == {CONTAINS}:
            self.compare(actual, expected[CONTAINS], path, loosely=True)
        elif isinstance(expected, str) and expected in _PLACEHOLDERS:
            self._compare_placeholder(actual, expected, path)
        elif isinstance(expected, dict) and isinstance(actual, dict):
            self._compare_objects(actual, expected, path, loosely=loosely)
        elif isinstance(expected, list) and isinstance(actual, list):
            self._compare_arrays(actual, expected, path, loosely=loosely)
        elif type(actual) is not type(expected) or actual != expected:
            self._differ(path, f"expected {expected!r}, got {actual!r}")

    def _compare_placeholder(self, actual: object, expected: str, path: str) -> None:
        if not _PLACEHOLDERS[expected](actual):
            self._differ(path, f"expected {expected}, got {actual!r}")
        elif expected == "<int>":
            if self.bound not in (UNBOUND, actual):
                self._differ(path, f"expected {self.bound} again, got {actual!r}")
            self.bound = actual

    def _compare_objects(
        self,
        actual: dict[str, object],
        expected: dict[str, object],
        path: str,
        *,
        loosely: bool,
    ) -> None:
        for name, value in expected.items():
            if name in actual:
                self.compare(actual[name], value, f"{path}.{name}", loosely=loosely)
            else:
                self._differ(path, f"{name} is missing")
        for name in actual.keys() - expected.keys():
            if not loosely:
                self._differ(path, f"{name} is not expected: {actual[name]!r}")

    def _compare_arrays(
        self, actual: list[object], expected: list[object], path: str, *, loosely: bool
    ) -> None:
        if len(actual) < len(expected) or (len(actual) > len(expected) and not loosely):
            self._differ(path, f"expected {len(expected)} elements, got {len(actual)}")
        for index, (one, other) in enumerate(zip(actual, expected, strict=False)):
            self.compare(one, other, f"{path}[{index}]", loosely=loosely)

    def _differ(self, path: str, how: str) -> None:
        self.differences.append(f"{path}: {how}")


def differences(actual: list[object], expected: list[object]) -> list[str]:
    """Where the frames that came differ from those that one vector expects."""
    matcher = Matcher()
    matcher.compare(actual, expected)
    return matcher.differences
