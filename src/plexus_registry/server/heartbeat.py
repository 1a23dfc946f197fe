"""The task that pings idle WebSockets, and ends those whose peer is gone or does not read.

One task checks all connections in every tick, so that a quiet connection costs nothing. In each
tick, it checks whether the peers read their answers. Once in a ping interval, each
connection has its turn to be pinged; the turns are spread evenly over the ticks of the interval.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.measures import Histogram
from plexus_registry.websocket_frames import CloseCode, Opcode, encode_frame

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from plexus_registry.concurrency import LogThrottle
    from plexus_registry.server.websocket import WebSocket

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
CROWDED_TICKS = 2
"""How long a peer may read nothing while others wait for the memory that its answer occupies."""
PING = encode_frame(Opcode.PING, b"")
"""Whatever a peer sends after it shows that it is there."""
MISSED_PONGS = 2
LEAST_FRAGMENTS = 16 * 1024
BYTES_PER_FRAGMENT = 64
"""The number of fragments of a message is limited, because empty ones do not add to its size. The
limit is the greatest size of a message divided by this, but at least `LEAST_FRAGMENTS`."""


@dataclass(slots=True, eq=False)
class Watched:
    """One connection, its name in the log, and what earlier checks found; `cut` ends it at once."""

    websocket: WebSocket
    name: str
    cut: Callable[[], None]
    turn: int
    sending: int | None = None
    stuck_ticks: int = 0
    crowded_ticks: int = 0
    unanswered: int = 0
    waits: int = 0


class Heartbeat:
    """Checks all open WebSockets.

    Attributes:
        tick: The seconds between two checks.
        lag: How late the checks began.
    """

    def __init__(
        self,
        *,
        ping_interval: float,
        unread_seconds: float,
        max_message_bytes: int,
        refused: Counter[str],
        log_throttle: LogThrottle,
    ) -> None:
        """Start without connections.

        Args:
            ping_interval: The seconds after which an idle connection is pinged.
            unread_seconds: The seconds for which a peer may read nothing of its answers.
            max_message_bytes: The greatest size of a message, which limits its fragments.
            refused: Counts the connections that are ended, by cause: `pings`, `unread_seconds`,
                `unread_total` and `fragments`.
            log_throttle: Logs them.
        """
        self.tick = min(TICK_SECONDS, ping_interval, unread_seconds / 2)
        self.lag = Histogram()
        self._turns = max(1, round(ping_interval / self.tick))
        self._patience = max(1, round(unread_seconds / self.tick))
        self._unread_seconds = unread_seconds
        self._most_fragments = max(LEAST_FRAGMENTS, max_message_bytes // BYTES_PER_FRAGMENT)
        self._ping_interval = ping_interval
        self._refused = refused
        self._log_throttle = log_throttle
        self._watched: set[Watched] = set()
        self._numbers = count()

    def add(self, websocket: WebSocket, name: str, cut: Callable[[], None]) -> Watched:
        """Check a connection from now on, and return the entry that `remove` needs."""
        watched = Watched(websocket, name, cut, next(self._numbers) % self._turns)
        self._watched.add(watched)
        return watched

    def remove(self, watched: Watched) -> None:
        """Do not check a connection any more."""
        self._watched.discard(watched)

    async def check_forever(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Check the connections in every tick until cancelled."""
        task_status.started()
        wake = trio.current_time()
        for number in count():
            # If this process was stopped, that time does not count as silence of the peers.
            wake = max(wake + self.tick, trio.current_time())
            await trio.sleep_until(wake)
            self.lag.note(trio.current_time() - wake)
            self.check_once(number % self._turns)

    def check_once(self, turn: int) -> None:
        """Check all connections, and ping those of this turn that are idle."""
        for watched in [*self._watched]:
            if watched.websocket.reader.fragments > self._most_fragments:
                reason = f"a message may come in {self._most_fragments} fragments"
                self._refuse(watched, "fragments", f"closed {watched.name}: {reason}")
                code = CloseCode.POLICY_VIOLATION
                watched.websocket.start_soon(_close_and_cut, watched, code, reason)
                continue
            sending = watched.websocket.sending
            if sending is not None and sending == watched.sending:
                watched.stuck_ticks += 1
                if watched.stuck_ticks >= self._patience:
                    silence = f"it read nothing for {self._unread_seconds:g} s"
                    self._cut_off(watched, "unread_seconds", silence)
                    continue
            else:
                watched.sending = sending
                watched.stuck_ticks = 0
            if self._holds_up_others(watched):
                self._cut_off(watched, "unread_total", "it reads too slowly, and others wait")
                continue
            self._read_ahead(watched)
            if watched.turn == turn:
                self._check_peer(watched)

    def _read_ahead(self, watched: Watched) -> None:
        """Read the control frames of a connection that is busy since the last tick."""
        waits, watched.waits = watched.waits, watched.websocket.waits
        if waits == watched.waits and not watched.websocket.is_reading:
            watched.websocket.start_soon(watched.websocket.read_ahead)

    def _holds_up_others(self, watched: Watched) -> bool:
        """Whether others wait for memory that this connection has occupied for too long."""
        if not watched.websocket.share.must_give_way:
            watched.crowded_ticks = 0
            return False
        watched.crowded_ticks += 1
        is_stuck = min(watched.stuck_ticks, watched.crowded_ticks) >= CROWDED_TICKS
        return is_stuck or watched.crowded_ticks >= self._patience

    def _cut_off(self, watched: Watched, word: str, why: str) -> None:
        self._refuse(watched, word, f"cut off {watched.name}: {why}")
        watched.cut()

    def _check_peer(self, watched: Watched) -> None:
        websocket = watched.websocket
        # If nobody reads what the peer sends, its silence does not count.
        if websocket.was_heard or not websocket.is_reading:
            websocket.was_heard = False
            watched.unanswered = 0
        if websocket.has_asked:
            websocket.has_asked = False
        elif watched.unanswered < MISSED_PONGS:
            watched.unanswered += 1
            websocket.start_soon(_ping, websocket)
        else:
            silence = f"it answered no ping for {MISSED_PONGS * self._ping_interval:g} s"
            self._refuse(watched, "pings", f"closed {watched.name}: {silence}")
            reason = "no answer to a ping"
            websocket.start_soon(_close_and_cut, watched, CloseCode.INTERNAL_ERROR, reason)

    def _refuse(self, watched: Watched, word: str, text: str) -> None:
        """Count and log the end of a connection, and check it no more."""
        self.remove(watched)
        self._refused[word] += 1
        self._log_throttle.log(word, text, level=logging.INFO)


async def _ping(websocket: WebSocket) -> None:
    try:
        await websocket.send((PING,))
    except ConnectionClosed:
        return
    except Exception:
        log.exception("a ping failed")  # a bug; it ends no other connection


async def _close_and_cut(watched: Watched, code: int, reason: str) -> None:
    try:
        with trio.move_on_after(1):
            await watched.websocket.close(code, reason)
    except Exception:
        log.exception("a close failed")  # a bug; it ends no other connection
    finally:
        watched.cut()
