"""Probes of many hubs at once, driven by one task.

Theory of operation. Each probe goes over a plain TCP connection to a numeric
address, what most backends have. Their sockets never block and share one epoll object, whose own
descriptor Trio waits for: the task wakes once for whatever happened meanwhile, not once for each
step of each probe, and none of them has a task, a stream or a cancel scope of its own. All have
the same time to answer, so the one that began first is the first whose time is up. What a probe
comes to is the same as with `Probe`, which knows every kind of address and tells the steps.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import contextmanager, suppress
from math import inf
from typing import TYPE_CHECKING, TypeAlias

import trio

from plexus_registry.health.network import RECEIVE_BYTES, SocketAddress, is_shortage, too_late, why
from plexus_registry.health.probe_protocol import CredentialError, ProbeProtocol, ProbeProtocolError
from plexus_registry.rules.probe_results import (
    CONNECT,
    INFO,
    NAME,
    UPGRADE,
    Answered,
    Outcome,
    Unanswered,
    Unchecked,
    Untried,
    milliseconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Finish: TypeAlias = Callable[[Outcome], None]


class _Call:
    """One probe of a hub.

    Attributes:
        number: The descriptor of its socket.
        began: When it began.
        finish: Is given what it comes to.
        unsent: What is to be sent before anything more is read.
        registered: Which events epoll looks for.
        outcome: What it comes to, once that is known.
    """

    __slots__ = (
        *("_answer", "_connection", "_protocol", "_step"),
        *("began", "finish", "number", "outcome", "registered", "unsent"),
    )

    def __init__(
        self, connection: socket.socket, address: SocketAddress, finish: Finish, began: float
    ) -> None:
        self._connection = connection
        self.number = connection.fileno()
        self.began = began
        self.finish = finish
        self.outcome: Outcome | None = None
        self.registered = 0
        self._protocol = ProbeProtocol(address.host, address.port, os.urandom(16))
        self.unsent = self._protocol.request
        self._step = CONNECT
        self._answer: Answered | None = None

    @property
    def awaited(self) -> int:
        """Which events it waits for."""
        return select.EPOLLOUT if self.unsent else select.EPOLLIN

    def listen(self, moment: float) -> None:
        """Take in what came, without a wait."""
        try:
            self._hear(self._connection.recv(RECEIVE_BYTES), moment)
        except BlockingIOError:
            return
        except CredentialError as wanted:
            self.outcome = Unchecked(reason=f"{self._step}: {wanted}", wants_credential=True)
        except (OSError, ProbeProtocolError) as error:
            self.fail(why(error))

    def speak(self) -> None:
        """Send what is to be sent, as far as that needs no wait; it shows the connection is there.

        A connection that failed says here why, too.
        """
        try:
            self.unsent = self.unsent[self._connection.send(self.unsent) :]
            if self._step == CONNECT:
                self._step = UPGRADE
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(why(error))

    def fail(self, reason: str) -> None:
        """End it, for it cannot go on."""
        # Whatever goes wrong once the hub said who it is, it is there.
        self.outcome = self._answer or Unanswered(reason=f"{self._step}: {reason}")

    def hang_up(self) -> None:
        """Close the connection, after a goodbye where the hub said all."""
        if self._protocol.is_over:
            with suppress(OSError):
                # It leaves in one packet with the end of the connection.
                self._connection.send(self._protocol.goodbye, socket.MSG_MORE)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _hear(self, data: bytes, moment: float) -> None:
        if not data:
            raise ProbeProtocolError("it hung up")
        try:
            self.unsent = self._protocol.receive(data)
        finally:
            self._understand(moment)

    def _understand(self, moment: float) -> None:
        protocol = self._protocol
        if protocol.is_open and self._step == UPGRADE:
            self._step = INFO
        if protocol.info is None:
            return
        self._step = NAME
        latency = self._answer.latency_ms if self._answer else milliseconds(moment - self.began)
        self._answer = protocol.answer(latency)
        if protocol.is_over:
            self.outcome = self._answer


@contextmanager
def open_batch_prober(*, timeout_seconds: float) -> Iterator[BatchProber | None]:
    """Open a batch prober; at the end none of its sockets stays open.

    Args:
        timeout_seconds: How long one probe may take.

    Returns:
        None where the system has no epoll: each probe is made on its own there.
    """
    if not hasattr(select, "epoll"):
        yield None
        return
    batch_prober = BatchProber(timeout_seconds=timeout_seconds)
    try:
        yield batch_prober
    finally:
        batch_prober.close()


class BatchProber:
    """Probes hubs, many of them at once, while `run` runs."""

    def __init__(self, *, timeout_seconds: float) -> None:
        """Prepare it.

        Args:
            timeout_seconds: How long one probe may take.
        """
        self._timeout_seconds = timeout_seconds
        self._epoll = select.epoll()
        self._wanted: list[tuple[SocketAddress, Finish]] = []
        # In the order in which they began, and so in that in which their time is up.
        self._calls: dict[int, _Call] = {}
        self._patience = trio.CancelScope()

    def close(self) -> None:
        """Close all sockets."""
        self._epoll.close()
        for call in self._calls.values():
            call.close()

    def probe(self, address: SocketAddress, finish: Finish) -> None:
        """Have the hub at an address probed.

        Args:
            address: Where it is.
            finish: Is given what the probe comes to, later, and from within `run`.
        """
        if not self._wanted:
            self._patience.cancel()
        self._wanted.append((address, finish))

    async def run(self) -> None:
        """Make the probes that are asked for, until cancelled."""
        while True:
            with self._patience:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._begin()
            self._go_on(trio.current_time())
            self._patience = trio.CancelScope(deadline=self._next_deadline())

    def _next_deadline(self) -> float:
        if self._wanted:
            return -inf
        first = next(iter(self._calls.values()), None)
        return inf if first is None else first.began + self._timeout_seconds

    def _begin(self) -> None:
        """Begin what is asked for."""
        wanted, self._wanted = self._wanted, []
        begun, refused = [], []
        for address, finish in wanted:
            began = trio.current_time()
            try:
                begun.append((_connecting(address), address, finish, began))
            except OSError as error:
                kind = Untried if is_shortage(error) else Unanswered
                refused.append((finish, kind(reason=f"{CONNECT}: {why(error)}")))
        calls = [_Call(*each) for each in begun]
        for call in calls:
            # On this very machine the connection is there by now.
            call.speak()
            self._calls[call.number] = call
            self._register(call, self._epoll.register)
        self._end([call for call in calls if call.outcome is not None])
        for finish, outcome in refused:
            finish(outcome)

    def _go_on(self, moment: float) -> None:
        """Go on with whatever can go on.

        Each step is made for all of them before the next one: what is sent in one go wakes a
        machine, or a hub that many names lead to, once.
        """
        ready = [self._calls[number] for number, _ in self._epoll.poll(0)]
        for call in ready:
            if not call.unsent:
                call.listen(moment)
        for call in ready:
            if call.unsent and call.outcome is None:
                call.speak()
        for call in ready:
            if call.outcome is None and call.awaited != call.registered:
                self._register(call, self._epoll.modify)
        self._end([call for call in ready if call.outcome is not None] + self._late(moment))

    def _register(self, call: _Call, register: Callable[[int, int], None]) -> None:
        call.registered = call.awaited
        register(call.number, call.registered)

    def _late(self, moment: float) -> list[_Call]:
        """Fail those whose time is up."""
        late = []
        for call in self._calls.values():
            if call.began + self._timeout_seconds > moment:
                break
            if call.outcome is None:
                call.fail(too_late(self._timeout_seconds))
                late.append(call)
        return late

    def _end(self, over: list[_Call]) -> None:
        for call in over:
            del self._calls[call.number]
            # Epoll forgets a socket that is closed.
            call.hang_up()
        for call in over:
            assert call.outcome is not None  # noqa: S101 - that is why it ends
            call.finish(call.outcome)


def _connecting(address: SocketAddress) -> socket.socket:
    """Make a socket that begins to connect; raises OSError."""
    connection = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        number = connection.connect_ex((address.host, address.port))
        _raise_if(0 if number == errno.EINPROGRESS else number)
    except OSError:
        connection.close()
        raise
    return connection


def _raise_if(number: int) -> None:
    """Raise the OSError of a number, but for 0."""
    if number:
        raise OSError(number, os.strerror(number))
