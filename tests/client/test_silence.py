"""Peers that say nothing any more: who reads must know, and who only waits too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from wsproto.events import Ping

from plexus_registry import RegistryUnavailableError
from plexus_registry.client.socket import SILENCE_SECONDS
from tests.client.scripted import PINGED, response, scripted_for

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_frozen_registry_is_lost_to_whoever_waits(autojump_clock: MockClock) -> None:
    async with scripted_for(100) as (client, peer):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async with client.watch() as events:
                    with pytest.raises(RegistryUnavailableError, match="no sign of life for 40"):
                        await anext(events)

            nursery.start_soon(watch)
            await peer.send(response(await peer.receive(), 1))
        assert trio.current_time() - began == pytest.approx(2 * SILENCE_SECONDS)


async def test_a_registry_that_answers_pings_is_kept_however_little_happens(
    autojump_clock: MockClock,
) -> None:
    async with scripted_for(4000) as (client, peer):
        with trio.move_on_after(3590):
            while True:
                event = await peer.event()
                assert isinstance(event, Ping)
                await peer.send_event(event.response())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping, "hub")
            await peer.answer(await peer.receive(), PINGED)


async def test_a_registry_that_talks_is_not_pinged(autojump_clock: MockClock) -> None:
    async with scripted_for(4000) as (client, peer):
        for _ in range(20):
            await trio.sleep(SILENCE_SECONDS * 0.9)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.ping, "hub")
                await peer.answer(await peer.receive(), PINGED)
