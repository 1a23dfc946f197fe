"""The task that keeps one announcement.

Theory of operation. It connects, registers, and pings on the same connection; whatever goes wrong
ends that connection and begins the next one after a pause. The task is shielded, since it has the
last word when everything around it is cancelled: leaving cuts short what it is doing (`_Work`), and
it has `LEAVE_SECONDS` to deregister. That goes over the connection of the registration, so that a
registration under way comes first; where that connection is lost, over a new one, since a registry
that restarted still has the entry.
"""

from __future__ import annotations

import logging
import random
from contextlib import AsyncExitStack, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

import trio

from plexus_registry.client.connection import run_client
from plexus_registry.rules.errors import CallError, NameTaken, RegistryUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from plexus_registry.client.connection import RegistryClient
    from plexus_registry.client.socket import ClientSocket

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long connecting and registering, or a ping, may take."""
LEAVE_SECONDS = 2.0
"""How long deregistering may take."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Pauses are drawn from 0 to a bound that doubles from the first to the longest of these."""
STEADY_SECONDS = 5.0
"""A connection that lasted so long was a good one: the pauses begin anew."""
PING_JITTER = 0.1


class Status(StrEnum):
    """How an announcement stands.

    `CONNECTING` is only before the first outcome; from then on `UNREACHABLE` and `REFUSED` last
    until it is registered, and `CLOSED` is the end.
    """

    CONNECTING = "connecting"
    REGISTERED = "registered"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    CLOSED = "closed"


class Announcement:
    """A service that is being announced; `announce` makes it.

    Attributes:
        name: The name that it has in the registry.
        status: How it stands.
        error: Why it is not registered; None where it is.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.status = Status.CONNECTING
        self.error: Exception | None = None
        self._url = url
        self._reached: dict[Status, trio.Event] = {}
        self._settled = trio.Event()

    async def wait_for(self, status: Status) -> None:
        """Wait until it has a status, however short; at once where it has it now."""
        if self.status is status:
            await trio.lowlevel.checkpoint()
        else:
            await self._reached.setdefault(status, trio.Event()).wait()

    async def wait_settled(self) -> None:
        """Wait until the first attempt has an outcome."""
        await self._settled.wait()

    def become(self, status: Status, error: Exception | None = None) -> None:
        """Change the status, and say so in the log where it is another one."""
        is_known = status is self.status
        # Where it was not announced, its end is no news.
        is_known |= status is Status.CLOSED and self.status is not Status.REGISTERED
        level = logging.INFO if error is None else logging.WARNING
        log.log(logging.DEBUG if is_known else level, *self._in_words(status, error))
        self.status = status
        self.error = error
        self._settled.set()
        if status in self._reached:
            self._reached.pop(status).set()

    def _in_words(self, status: Status, error: Exception | None) -> tuple[str, str, object]:
        match status:
            case Status.REGISTERED:
                return "%s is announced at %s", self.name, self._url
            case Status.REFUSED:
                return "%s is not announced, the registry refuses: %s", self.name, error
            case Status.UNREACHABLE:
                return "%s is not announced for now, trying on: %s", self.name, error
            case _:
                return "%s is no longer announced at %s", self.name, self._url


class _Work:
    """What the announcer does before it deregisters; `leave` cuts it short."""

    def __init__(self) -> None:
        self.is_over = False
        self._scope = trio.CancelScope()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Do a part of the work inside; nothing of it where it is over already."""
        with trio.CancelScope() as self._scope:
            if self.is_over:
                self._scope.cancel()
            yield

    def end(self) -> None:
        """Cut it short, now and from now on."""
        self.is_over = True
        self._scope.cancel()


class Announcer:
    """Keeps one announcement."""

    def __init__(
        self,
        announcement: Announcement,
        *,
        open_socket: Callable[[AsyncExitStack], Awaitable[ClientSocket]],
        register: Callable[[RegistryClient], Awaitable[object]],
        address: tuple[str, int, str],
        ping_every: float,
    ) -> None:
        self._announcement = announcement
        self._name = announcement.name
        self._open_socket = open_socket
        self._register_on = register
        self._address = address
        self._ping_every = ping_every
        self._life = trio.CancelScope(shield=True)
        self._work = _Work()
        self._may_be_registered = False
        self._is_displaced = False

    async def keep(self) -> None:
        """Keep it announced until it is told to leave, and then deregister."""
        failures = 0
        with self._life:
            while not self._work.is_over:
                began = trio.current_time()
                pause = LONGEST_PAUSE
                try:
                    await self._hold_connection()
                except CallError as error:
                    # What is refused now will be for a while: nothing here changes what is asked.
                    self._announcement.become(Status.REFUSED, error)
                except RegistryUnavailableError as error:
                    self._announcement.become(Status.UNREACHABLE, error)
                    failures = 0 if trio.current_time() - began > STEADY_SECONDS else failures
                    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures)
                    failures = min(failures + 1, 16)
                with self._work.going_on():
                    await trio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
            if self._may_be_registered:
                await self._deregister_anew()

    def leave(self) -> None:
        """Have the last word within `LEAVE_SECONDS`."""
        self._life.deadline = trio.current_time() + LEAVE_SECONDS
        self._work.end()

    async def _hold_connection(self) -> None:
        """Announce on one connection, for as long as that lasts.

        Raises:
            RegistryUnavailableError: It cannot be had, or was lost, or there is no answer.
            CallError: The registry refuses.
        """
        deadline = trio.current_time() + ANSWER_SECONDS
        async with AsyncExitStack() as stack:
            with self._work.going_on(), _answered_by(deadline):
                socket = await self._open_socket(stack)
            if self._work.is_over:
                return
            # The connection outlasts the work: the last word goes over it.
            client = await stack.enter_async_context(run_client(socket))
            with self._work.going_on():
                if not self._is_displaced:
                    await self._register(client, deadline)
                await self._stay(client)
            if self._may_be_registered:
                await self._deregister(client)

    async def _register(self, client: RegistryClient, deadline: float) -> None:
        was_registered, self._may_be_registered = self._may_be_registered, True
        with _answered_by(deadline):
            try:
                await self._register_on(client)
            except CallError:
                self._may_be_registered = was_registered
                raise
        self._announcement.become(Status.REGISTERED)

    async def _stay(self, client: RegistryClient) -> None:
        """Ping for as long as the name means this service."""
        if self._is_displaced:
            await self._look(client)
        while True:
            # Only who pinged once is ever taken for dead: the first ping follows at once.
            if not self._is_displaced and not await self._ping(client):
                await self._register_again(client)
                await self._ping(client)
            with trio.move_on_after(self._ping_every * _jitter()):
                await client.wait_lost()
            await self._look(client)

    async def _look(self, client: RegistryClient) -> None:
        """Find out who has the name, and register again where nobody has it.

        A ping goes by name: for another one that has taken the name over, it would be a lie.
        """
        with _answered_by(trio.current_time() + ANSWER_SECONDS):
            holder = await client.get(self._name)
        is_ours = holder is not None and holder.address == self._address
        self._is_displaced = holder is not None and holder.is_active and not is_ours
        if holder is not None and self._is_displaced:
            error = NameTaken(f"{self._name} means {holder.url} now", holder=holder)
            self._announcement.become(Status.REFUSED, error)
        elif not is_ours or self._announcement.status is not Status.REGISTERED:
            await self._register_again(client)

    async def _register_again(self, client: RegistryClient) -> None:
        log.info("the registry does not know %s any more", self._name)
        await self._register(client, trio.current_time() + ANSWER_SECONDS)

    async def _ping(self, client: RegistryClient) -> bool:
        with _answered_by(trio.current_time() + ANSWER_SECONDS):
            return await client.ping(self._name)

    async def _deregister_anew(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                socket = await self._open_socket(stack)
                await self._deregister(await stack.enter_async_context(run_client(socket)))
        except (CallError, RegistryUnavailableError) as error:
            known = self._announcement.status is Status.UNREACHABLE
            level = logging.DEBUG if known else logging.INFO
            log.log(level, "%s could not be deregistered: %s", self._name, error)

    async def _deregister(self, client: RegistryClient) -> None:
        """Deregister, unless somebody else has taken the name over.

        Raises:
            RegistryUnavailableError: The connection was lost.
            CallError: The registry refuses.
        """
        backend = await client.get(self._name)
        if backend is not None and backend.address == self._address:
            await client.deregister(self._name)
        self._may_be_registered = False


def _jitter() -> float:
    return random.uniform(1 - PING_JITTER, 1 + PING_JITTER)  # noqa: S311 - no secret


@contextmanager
def _answered_by(deadline: float) -> Iterator[None]:
    """Take an answer that does not come for no registry."""
    try:
        with trio.fail_at(deadline):
            yield
    except trio.TooSlowError as error:
        raise RegistryUnavailableError(f"no answer within {ANSWER_SECONDS:g} seconds") from error
