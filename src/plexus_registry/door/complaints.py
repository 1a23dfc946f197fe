"""What the log says of refused peers: enough to help, and too little to fill a disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0
LINES_IN_WINDOW = 10
MOST_ADDRESSES = 1_000
"""So many addresses are remembered of each minute; who comes after them is counted, not logged."""


@dataclass(slots=True)
class _Window:
    began: float
    said: int = 0
    kept_back: int = 0


class Complaints:
    """Logs refusals, of each kind only so many in a minute."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._addresses: dict[str, float] = {}

    def say(self, kind: str, text: str, *, level: int = logging.WARNING) -> None:
        """Log a refusal, or count it where its kind was said often enough."""
        if self._may_say(kind, level):
            log.log(level, "%s", text)

    def say_of_address(self, kind: str, address: str, text: str) -> None:
        """Log a refusal once a minute for an address, and of each kind only so many in a minute."""
        now = trio.current_time()
        logged = self._addresses.get(address)
        if logged is not None and now - logged < WINDOW_SECONDS:
            return
        if len(self._addresses) >= MOST_ADDRESSES:
            self._addresses = {
                known: when
                for known, when in self._addresses.items()
                if now - when < WINDOW_SECONDS
            }
        if len(self._addresses) < MOST_ADDRESSES:
            self._addresses[address] = now
            self.say(kind, text)

    def say_bug(self, text: str, bug: BaseException) -> None:
        """Log a bug with its trace, or count it: no peer may fill a disk with our bugs."""
        if self._may_say("bug", logging.ERROR):
            log.error("%s", text, exc_info=bug)

    def _may_say(self, kind: str, level: int) -> bool:
        now = trio.current_time()
        window = self._windows.get(kind)
        if window is None or now - window.began >= WINDOW_SECONDS:
            if window is not None and window.kept_back:
                log.log(level, "%d more like the next were not logged", window.kept_back)
            window = self._windows[kind] = _Window(now)
        if window.said >= LINES_IN_WINDOW:
            window.kept_back += 1
            return False
        window.said += 1
        return True
