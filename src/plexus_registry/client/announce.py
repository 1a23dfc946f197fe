"""Keeping a service registered for exactly as long as it lives. Trio only."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from plexus_registry.client.announcer import Announcement, Announcer, Status
from plexus_registry.client.connection import checked_details
from plexus_registry.client.socket import open_socket, parse_url, without_secrets
from plexus_registry.concurrency import lone_error
from plexus_registry.rules.backend import AllDetails

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Unpack

    from plexus_registry.client.socket import ClientSocket

ENTRY_SECONDS = 2.0
"""How long a registry that does not answer may hold up the service's start."""


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

    It is registered on entry, pinged, registered again whenever the registry does not know it
    any more, and deregistered on exit, even when that is a cancellation; the exit takes
    `LEAVE_SECONDS` at most. What goes wrong meanwhile is tried again, with pauses, and is said in
    the log once when it begins and once when it is over.

    Args:
        url: The registry's URL.
        name: The name to claim.
        host: Where the service listens, as others can reach it.
        port: Where the service listens.
        protocol: How to connect to it: `ws` or `wss`.
        stale_after: After how many seconds without a ping the registry takes it for dead; it is
            pinged three times as often.
        token: What proves who is asking, where the registry wants that.
        fail_open: Whether the block is entered without the registry too, after
            `ENTRY_SECONDS` at most. Otherwise the first registration must succeed.
        details: The optional fields, as for `RegistryClient.register`.

    Raises:
        UrlError: The URL is none.
        ValueError: The token is none that a header can hold, or `stale_after` is not above 0.
        RegistryUnavailableError: Without `fail_open`: the registry does not answer.
        NameTaken: Without `fail_open`: a live backend elsewhere has the name; and likewise any
            other refusal.
    """
    if not stale_after > 0:
        raise ValueError(f"stale_after is {stale_after}: it must be a number of seconds above 0")
    checked_details(details, AllDetails.__optional_keys__)
    parse_url(url)
    announcement = Announcement(name, without_secrets(url))
    announcer = Announcer(
        announcement,
        open_socket=partial(_enter_socket, url, token),
        register=lambda client: client.register(
            name, host, port, protocol, source="auto", **details
        ),
        address=(host.lower(), port, protocol),
        ping_every=stale_after / 3,
    )
    try:
        with lone_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(announcer.keep)
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


async def _enter_socket(url: str, token: str | None, stack: AsyncExitStack) -> ClientSocket:
    return await stack.enter_async_context(open_socket(url, token=token))
