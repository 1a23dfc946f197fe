"""Discovery: what is asked, what is remembered, and for how long."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry import (
    Backend,
    Discovered,
    NotFound,
    RegistryClient,
    RegistryUnavailableError,
    UrlError,
    discover,
)
from plexus_registry.client import connection
from plexus_registry.client.connection import ANSWER_SECONDS
from plexus_registry.rules.backend import Register
from tests.client.network import URL, Network, install, serving

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return install(monkeypatch)


async def test_the_last_known_answer_outlives_the_registry(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    find = partial(discover, URL, "hub", last_known={})
    async with serving(tmp_path) as registry:
        backend = (await registry.register(Register(name="hub", host="::1", port=4))).backend
        found = await find()
        assert (found.url, found.backend, found.is_stale) == ("ws://[::1]:4", backend, False)
    stale = await find()
    assert (stale.url, stale.is_stale, stale.as_of) == (found.url, True, found.as_of)
    assert (await find()).is_stale
    async with serving(tmp_path):
        assert not (await find()).is_stale


async def test_a_frozen_registry_is_as_good_as_none(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    find = partial(discover, URL, "hub", last_known={})
    async with serving(tmp_path) as registry:
        await registry.register(Register(name="hub", host="h", port=4))
        await find()
        network.is_frozen = True
        with trio.fail_after(ANSWER_SECONDS + 0.1):
            assert (await find()).is_stale


async def test_an_answer_that_came_in_time_counts_even_if_the_goodbye_takes_too_long(
    tmp_path: Path, network: Network, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    get = RegistryClient.get

    async def get_and_freeze(client: RegistryClient, name: str) -> Backend | None:
        backend = await get(client, name)
        network.is_frozen = True
        return backend

    async with serving(tmp_path) as registry:
        await registry.register(Register(name="hub", host="h", port=4))
        monkeypatch.setattr(RegistryClient, "get", get_and_freeze)
        assert not (await discover(URL, "hub", last_known={})).is_stale


async def test_a_name_that_is_gone_is_forgotten(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    last_known: dict[tuple[str, str], Discovered] = {}
    find = partial(discover, URL, "hub", last_known=last_known)
    async with serving(tmp_path) as registry:
        await registry.register(Register(name="hub", host="h", port=4))
        await find()
        assert [*last_known] == [(URL, "hub")]
        await registry.delete("hub")
        with pytest.raises(NotFound, match="hub"):
            await find()
    with pytest.raises(RegistryUnavailableError, match="connection refused"):
        await find()


async def test_what_is_remembered_belongs_to_one_registry(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as registry:
        await registry.register(Register(name="hub", host="h", port=4))
        await discover(URL, "hub")
    assert (await discover(URL, "hub")).is_stale
    for url, name in (("ws://other:1", "hub"), (URL, "other")):
        with pytest.raises(RegistryUnavailableError):
            await discover(url, name)
    with pytest.raises(UrlError):
        await discover("other", "hub")
