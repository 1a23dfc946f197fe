"""Keep a service registered for exactly as long as it runs.

Theory of operation. A task connects, registers, and pings on the same connection. Any failure ends
the connection, and after a pause the next one begins. The task is shielded, because it still has to
deregister when everything around it is cancelled: `leave` ends its other work and gives it
`LEAVE_SECONDS`. It deregisters over the connection on which it registered, so that a registration
under way comes first. If that connection is lost, it opens another one: a registry that restarted
still has the entry.
"""

from __future__ import annotations

import logging
import random
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

import trio

from plexus_registry.client.connection import (
    ANSWER_SECONDS,
    RegistryClient,
    answered_in_time,
    check_details,
    connect,
    run_client,
)
from plexus_registry.client.socket import open_socket, parse_url
from plexus_registry.concurrency import lone_error
from plexus_registry.rules.backend import AllDetails
from plexus_registry.rules.errors import CallError, NameTaken, RegistryUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from typing import Unpack

log = logging.getLogger(__name__)

ENTRY_SECONDS = 2.0  # how long a registry that does not answer may delay the start of the service
LEAVE_SECONDS = 2.0  # how long deregistering may take
# A pause is random, from 0 to a bound that doubles from the first to the longest of these. After a
# connection that lasted for some time, it begins with the first one again.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 5.0
PING_JITTER = 0.1


class Status(StrEnum):
    """The status of an announcement.

    It is `CONNECTING` only until the first outcome. `UNREACHABLE` and `REFUSED` last until the
    service is registered, and `CLOSED` is the end.
    """

    CONNECTING = "connecting"
    REGISTERED = "registered"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    CLOSED = "closed"


_IN_LOG = {
    Status.REGISTERED: "%s is announced at %s",
    Status.UNREACHABLE: "%s is not announced for now, still trying: %s",
    Status.REFUSED: "%s is not announced, the registry refuses: %s",
    Status.CLOSED: "%s is no longer announced at %s",
}


class Announcement:
    """A service that is being announced; `announce` makes it.

    Attributes:
        name: Its name in the registry.
        status: Its status.
        error: Why it is not registered; None if it is.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.status = Status.CONNECTING
        self.error: Exception | None = None
        self._url = url
        self._reached: dict[Status, trio.Event] = {}
        self._settled = trio.Event()

    async def wait_for(self, status: Status) -> None:
        """Wait until it has a status, even for a moment; return at once if it has it now."""
        if self.status is status:
            await trio.lowlevel.checkpoint()
        else:
            await self._reached.setdefault(status, trio.Event()).wait()

    async def wait_settled(self) -> None:
        """Wait until the first attempt has an outcome."""
        await self._settled.wait()

    def become(self, status: Status, error: Exception | None = None) -> None:
        """Change the status, and log a new one."""
        is_known = status is self.status
        # The end of a service that was not registered is no news.
        is_known |= status is Status.CLOSED and self.status is not Status.REGISTERED
        level = logging.INFO if error is None else logging.WARNING
        detail = self._url if error is None else error
        log.log(logging.DEBUG if is_known else level, _IN_LOG[status], self.name, detail)
        self.status = status
        self.error = error
        self._settled.set()
        if status in self._reached:
            self._reached.pop(status).set()


@asynccontextmanager
async def announce(
    url: str,
    *,
    name: str,
    host: str,
    port: int,
    protocol: str = "ws",
    stale_after: float = 60.0,
    token: str | None = None,
    fail_open: bool = True,
    **details: Unpack[AllDetails],
) -> AsyncIterator[Announcement]:
    """Announce a service for as long as the block lasts.

    The service is registered on entry, pinged, registered again whenever the registry does not know
    it any more, and deregistered on exit, even by a cancellation; the exit takes `LEAVE_SECONDS` at
    most. Failures in between are tried again, with pauses; the log tells when they begin and when
    they end.

    `stale_after` is after how many seconds without a ping the registry assumes that a service is
    dead; this one is pinged three times as often. With `fail_open` the block is entered without
    the registry as well, after `ENTRY_SECONDS` at most; otherwise the first registration must
    succeed. The other arguments are those of `connect` and `RegistryClient.register`.

    Raises:
        UrlError: The URL is not one of a registry.
        ValueError: No header can hold the token, or `stale_after` is not above 0.
        RegistryUnavailableError: Without `fail_open`: the registry does not answer.
        NameTaken: Without `fail_open`: a live backend elsewhere has the name. Other refusals are
            raised in the same way.
    """
    if not stale_after > 0:
        raise ValueError(f"stale_after is {stale_after}: it must be a number of seconds above 0")
    check_details(details, AllDetails.__optional_keys__)
    announcement = Announcement(name, parse_url(url).shown)
    announcer = _Announcer(
        announcement=announcement,
        url=url,
        token=token,
        address=(host.lower(), port, protocol),
        register_on=lambda client: client.register(
            name, host, port, protocol, source="auto", **details
        ),
        ping_every=stale_after / 3,
    )
    try:
        with lone_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(announcer.run)
                try:
                    with trio.move_on_after(ENTRY_SECONDS if fail_open else float("inf")):
                        await announcement.wait_settled()
                    if announcement.error is not None and not fail_open:
                        raise announcement.error
                    yield announcement
                finally:
                    announcer.leave()
    finally:
        announcement.become(Status.CLOSED)


@dataclass(slots=True, kw_only=True)
class _Announcer:
    """Keeps one announcement."""

    announcement: Announcement
    url: str
    token: str | None
    address: tuple[str, int, str]
    register_on: Callable[[RegistryClient], Awaitable[object]]
    ping_every: float
    life: trio.CancelScope = field(default_factory=partial(trio.CancelScope, shield=True))
    work: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_leaving: bool = False
    may_be_registered: bool = False
    is_displaced: bool = False

    async def run(self) -> None:
        """Keep the service registered until `leave` is called, and then deregister it."""
        failures = 0
        with self.life:
            while not self.is_leaving:
                began = trio.current_time()
                pause = LONGEST_PAUSE
                try:
                    await self._hold_connection()
                except CallError as error:
                    # A refusal lasts: the next request will be the same.
                    self.announcement.become(Status.REFUSED, error)
                except RegistryUnavailableError as error:
                    self.announcement.become(Status.UNREACHABLE, error)
                    failures = 0 if trio.current_time() - began > STEADY_SECONDS else failures
                    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures)
                    failures = min(failures + 1, 16)
                with self._until_leaving():
                    await trio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
            if self.may_be_registered:
                await self._deregister_on_new_connection()

    def leave(self) -> None:
        """Cut the work short, and deregister within `LEAVE_SECONDS`."""
        self.life.deadline = trio.current_time() + LEAVE_SECONDS
        self.is_leaving = True
        self.work.cancel()

    @contextmanager
    def _until_leaving(self) -> Iterator[None]:
        """Run the block; `leave` cancels it, also if it was called before."""
        with trio.CancelScope() as self.work:
            if self.is_leaving:
                self.work.cancel()
            yield

    async def _hold_connection(self) -> None:
        """Announce on one connection until that is lost or refused, or `leave` is called."""
        deadline = trio.current_time() + ANSWER_SECONDS
        async with AsyncExitStack() as stack:
            with self._until_leaving(), answered_in_time(deadline):
                opening = open_socket(self.url, token=self.token)
                socket = await stack.enter_async_context(opening)
            if self.is_leaving:
                return
            # The connection outlasts the work, because deregistering needs it.
            client = await stack.enter_async_context(run_client(socket))
            with self._until_leaving():
                if self.is_displaced:
                    await self._look(client)
                else:
                    await self._register(client, deadline)
                await self._stay(client)
            if self.may_be_registered:
                await self._deregister(client)

    async def _register(self, client: RegistryClient, deadline: float | None = None) -> None:
        was_registered, self.may_be_registered = self.may_be_registered, True
        with answered_in_time(deadline):
            try:
                await self.register_on(client)
            except CallError:
                self.may_be_registered = was_registered
                raise
        self.announcement.become(Status.REGISTERED)

    async def _stay(self, client: RegistryClient) -> None:
        """Ping for as long as the name means this service."""
        while True:
            # A service that never pinged does not become stale: so the first ping follows at once.
            if not self.is_displaced and not await self._ping(client):
                await self._register_again(client)
                await self._ping(client)
            jitter = random.uniform(1 - PING_JITTER, 1 + PING_JITTER)  # noqa: S311 - no secret
            with trio.move_on_after(self.ping_every * jitter):
                await client.wait_lost()
            await self._look(client)

    async def _ping(self, client: RegistryClient) -> bool:
        with answered_in_time():
            return await client.ping(self.announcement.name)

    async def _look(self, client: RegistryClient) -> None:
        """Find out which backend has the name, and register again if none has it.

        A ping goes by name: if another backend has taken the name over, it would vouch for that.
        """
        with answered_in_time():
            holder = await client.get(self.announcement.name)
        is_ours = holder is not None and holder.address == self.address
        self.is_displaced = holder is not None and holder.is_active and not is_ours
        if holder is not None and self.is_displaced:
            error = NameTaken(f"{self.announcement.name} means {holder.url} now", holder=holder)
            self.announcement.become(Status.REFUSED, error)
        elif not is_ours or self.announcement.status is not Status.REGISTERED:
            await self._register_again(client)

    async def _register_again(self, client: RegistryClient) -> None:
        log.info("the registry does not know %s any more", self.announcement.name)
        await self._register(client)

    async def _deregister_on_new_connection(self) -> None:
        try:
            async with connect(self.url, token=self.token) as client:
                await self._deregister(client)
        except (CallError, RegistryUnavailableError) as error:
            is_known = self.announcement.status is Status.UNREACHABLE
            level = logging.DEBUG if is_known else logging.INFO
            log.log(level, "%s could not be deregistered: %s", self.announcement.name, error)

    async def _deregister(self, client: RegistryClient) -> None:
        """Deregister, unless another backend has taken the name over."""
        backend = await client.get(self.announcement.name)
        if backend is not None and backend.address == self.address:
            await client.deregister(self.announcement.name)
        self.may_be_registered = False
