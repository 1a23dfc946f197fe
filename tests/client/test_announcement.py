"""Announcing a service: the real registry on virtual time, with every mishap on the way."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry import (
    InvalidParamsError,
    NameTaken,
    RegistryUnavailableError,
    Status,
    UrlError,
    announce,
)
from plexus_registry.client import announce as announcing
from plexus_registry.client.announce import (
    ENTRY_SECONDS,
    FIRST_PAUSE,
    LEAVE_SECONDS,
    LONGEST_PAUSE,
)
from plexus_registry.client.connection import ANSWER_SECONDS
from plexus_registry.rules.backend import Register
from tests.client.network import URL, Network, install, serve_until_killed, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from plexus_registry import Backend, Registry
    from plexus_registry.client.announce import Announcement
    from plexus_registry.rules.events import Cause, Pinged

announced = partial(announce, URL, name="svc", host="h", port=9)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return install(monkeypatch)


def is_active(registry: Registry) -> bool | None:
    backend = registry.get("svc")
    return None if backend is None else backend.is_active


@asynccontextmanager
async def settled_after(seconds: float) -> AsyncIterator[None]:
    began = trio.current_time()
    yield
    assert trio.current_time() - began <= seconds + 1e-6


async def test_it_is_registered_for_as_long_as_the_block_lasts(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as registry:
        async with announced(
            description="d", namespace="n", version="1", metadata={"x": 1}, protocol="wss"
        ) as announcement:
            assert announcement.status is Status.REGISTERED
            assert announcement.error is None
            backend = registry.get("svc")
            assert backend is not None
            assert (backend.url, backend.source) == ("wss://h:9", "auto")
            assert (backend.description, backend.namespace) == ("d", "n")
            assert (backend.version, backend.metadata) == ("1", '{"x":1}')
        assert announcement.status.value == "closed"
        assert is_active(registry) is False
        assert len(network.dialled) == 1


async def test_it_pings_at_a_third_of_the_term_with_jitter(
    tmp_path: Path, network: Network, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as registry:
        pinged: list[float] = []
        ping = registry.pings.ping

        async def note(name: str, by: Cause) -> Pinged:
            pinged.append(trio.current_time())
            return await ping(name, by)

        monkeypatch.setattr(registry.pings, "ping", note)
        async with announced(stale_after=30):
            await trio.sleep(1000)
            assert is_active(registry)
    gaps = [later - earlier for earlier, later in pairwise(pinged)]
    assert len(gaps) > 80
    assert all(9 <= gap <= 11.001 for gap in gaps)
    assert max(gaps) - min(gaps) > 1


async def test_a_missing_registry_holds_nothing_up_and_is_said_once(
    tmp_path: Path, network: Network, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "plexus_registry.client.announce")
    async with announced() as announcement:
        assert trio.current_time() == 0
        assert announcement.status is Status.UNREACHABLE
        assert isinstance(announcement.error, RegistryUnavailableError)
        await trio.sleep(600)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        async with serving(tmp_path) as registry:
            with trio.fail_after(LONGEST_PAUSE + 1):
                await announcement.wait_for(Status.REGISTERED)
            assert is_active(registry)
            await trio.sleep(600)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO", "WARNING"], "gone, back, gone"


async def test_pauses_are_drawn_up_to_a_bound_that_doubles(
    network: Network, autojump_clock: MockClock
) -> None:
    async with announced():
        await trio.sleep(3600)
    pauses = [b - a for a, b in pairwise(network.dialled)]
    bounds = [min(LONGEST_PAUSE, FIRST_PAUSE * 2**n) for n in range(len(pauses))]
    assert all(0 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
    late = pauses[8:]
    assert len(late) > 100
    assert min(late) < LONGEST_PAUSE / 4
    assert max(late) > LONGEST_PAUSE * 3 / 4


async def test_pauses_begin_anew_after_a_connection_that_lasted(
    tmp_path: Path, network: Network, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    async with announced() as announcement:
        await trio.sleep(600)
        assert network.dialled[-1] - network.dialled[-2] == LONGEST_PAUSE
        async with serving(tmp_path):
            await announcement.wait_for(Status.REGISTERED)
            await trio.sleep(60)
        await announcement.wait_for(Status.UNREACHABLE)
        lost, tried = trio.current_time(), len(network.dialled)
        await trio.sleep(LONGEST_PAUSE)
    assert network.dialled[tried] - lost == pytest.approx(FIRST_PAUSE)


async def test_a_frozen_registry_holds_the_entry_up_for_two_seconds(
    network: Network, autojump_clock: MockClock
) -> None:
    network.is_frozen = True
    async with settled_after(ENTRY_SECONDS + LEAVE_SECONDS), announced() as announcement:
        assert trio.current_time() == ENTRY_SECONDS
        assert announcement.status is Status.CONNECTING


async def test_every_attempt_with_a_frozen_registry_ends(
    network: Network, autojump_clock: MockClock
) -> None:
    network.is_frozen = True
    async with announced() as announcement:
        with trio.fail_after(ANSWER_SECONDS):
            await announcement.wait_for(Status.UNREACHABLE)
        await trio.sleep(300)
    assert 5 < len(network.dialled) < 60


async def test_without_fail_open_a_missing_registry_is_raised(
    network: Network, autojump_clock: MockClock
) -> None:
    with pytest.raises(RegistryUnavailableError, match="connection refused"):
        async with announced(fail_open=False):
            raise AssertionError
    network.is_frozen = True
    async with settled_after(ANSWER_SECONDS + LEAVE_SECONDS):
        with pytest.raises(RegistryUnavailableError, match="no answer within 5 seconds"):
            async with announced(fail_open=False):
                raise AssertionError


async def test_without_fail_open_a_refusal_is_raised(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path):
        with pytest.raises(InvalidParamsError, match="name"):
            async with announce(URL, name="/", host="h", port=1, fail_open=False):
                raise AssertionError


async def test_without_fail_open_what_goes_wrong_later_does_not_end_the_block(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_until_killed, tmp_path)
        async with announced(fail_open=False) as announcement:
            await server.kill()
            await announcement.wait_for(Status.UNREACHABLE)
            await trio.sleep(60)


async def test_a_refusal_does_not_spin(
    tmp_path: Path, network: Network, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path), announce(URL, name="/", host="h", port=1) as announcement:
        assert announcement.status is Status.REFUSED
        assert isinstance(announcement.error, InvalidParamsError)
        await trio.sleep(600)
        assert len(network.dialled) < 600 / LONGEST_PAUSE * 4
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1


async def test_a_url_that_is_none_is_raised_with_fail_open_too(
    network: Network, autojump_clock: MockClock
) -> None:
    with pytest.raises(UrlError):
        async with announce("registry", name="svc", host="h", port=1):
            raise AssertionError


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_term_that_would_mean_pings_without_end_is_refused(
    network: Network, seconds: float
) -> None:
    with pytest.raises(ValueError, match="stale_after"):
        async with announced(stale_after=seconds):
            raise AssertionError


async def test_it_is_registered_again_after_its_entry_was_deleted(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as registry, announced():
        await trio.sleep(1)  # the first ping is over
        await registry.delete("svc")
        await trio.sleep(22.1)
        assert is_active(registry)
        backend = registry.get("svc")
        assert backend is not None
        assert backend.pings  # or it would never be taken for dead
    assert len(network.dialled) == 1


async def test_it_pings_for_nobody_who_has_taken_the_name_over(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as registry, announced(stale_after=30) as announcement:
        await trio.sleep(100)
        await registry.register(Register(name="svc", host="elsewhere", port=1, source="auto"))
        with trio.fail_after(11.1):
            await announcement.wait_for(Status.REFUSED)
        assert isinstance(announcement.error, NameTaken)
        assert announcement.error.data["holder"] == registry.get("svc")
        assert network.last is not None
        await network.last.cut()  # a new connection is no reason to take the name back
        await trio.sleep(100)
        taken = registry.get("svc")
        assert taken is not None
        assert (taken.host, taken.pings, taken.is_active) == ("elsewhere", False, True)
        await registry.deregister("svc")
        with trio.fail_after(11.1):
            await announcement.wait_for(Status.REGISTERED)
        await trio.sleep(100)
        ours = registry.get("svc")
        assert ours is not None
        assert (ours.host, ours.pings, ours.is_active) == ("h", True, True)
    assert is_active(registry) is False


@pytest.mark.parametrize("is_wiped", [False, True])
async def test_it_is_registered_again_after_a_restart(
    tmp_path: Path, network: Network, autojump_clock: MockClock, *, is_wiped: bool
) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_until_killed, tmp_path / "one")
        async with announced() as announcement:
            await trio.sleep(60)
            await server.kill()
            await announcement.wait_for(Status.UNREACHABLE)
            again = tmp_path / ("two" if is_wiped else "one")
            server = await nursery.start(serve_until_killed, again)
            with trio.fail_after(10):  # some attempts fell into the time without a server
                await announcement.wait_for(Status.REGISTERED)
            assert is_active(server.registry)
        assert is_active(server.registry) is False
        await server.kill()


async def test_it_is_registered_again_after_a_freeze(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as registry, announced() as announcement:
        network.is_frozen = True
        with trio.fail_after(22 + ANSWER_SECONDS):
            await announcement.wait_for(Status.UNREACHABLE)
        await trio.sleep(300)
        assert not is_active(registry)
        network.is_frozen = False
        with trio.fail_after(LONGEST_PAUSE + ANSWER_SECONDS + 1):
            await announcement.wait_for(Status.REGISTERED)
        assert is_active(registry)


async def test_a_registry_that_came_back_is_told_goodbye_before_it_is_tried_again(
    tmp_path: Path, network: Network, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the entry from before, and the next attempt may be half a minute away."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_until_killed, tmp_path)
        monkeypatch.setattr(announcing, "FIRST_PAUSE", 1e9)
        monkeypatch.setattr(announcing, "LONGEST_PAUSE", 1e9)
        async with announced() as announcement:
            await server.kill()
            await announcement.wait_for(Status.UNREACHABLE)
            server = await nursery.start(serve_until_killed, tmp_path)
            assert is_active(server.registry)
            began = trio.current_time()
        assert is_active(server.registry) is False
        assert trio.current_time() == began
        await server.kill()


async def test_a_registry_that_stays_away_is_not_said_again_at_the_end(
    tmp_path: Path, network: Network, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "plexus_registry.client.announce")
    async with serving(tmp_path), announced() as announcement:
        assert network.last is not None
        network.listener = None
        await network.last.cut()
        await announcement.wait_for(Status.UNREACHABLE)
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert said == ["svc is announced at ws", "svc is not announced for now, still trying"]


async def test_a_name_that_somebody_took_over_is_not_deregistered(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as registry:
        async with announced():
            await registry.register(Register(name="svc", host="other", port=1, replace=True))
        assert is_active(registry)


async def refuse(command: Register, *, by: Cause) -> Backend:
    del by
    raise NameTaken("taken", holder=None)


async def test_what_was_refused_is_not_deregistered(
    tmp_path: Path, network: Network, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as registry:
        await registry.register(Register(name="svc", host="h", port=9))
        monkeypatch.setattr(registry, "register", refuse)
        async with announced() as announcement:
            assert announcement.status is Status.REFUSED
            assert isinstance(announcement.error, NameTaken)
        assert is_active(registry)
        with pytest.raises(NameTaken):
            async with announced(fail_open=False):
                raise AssertionError


async def conversation(network: Network, registry: Registry) -> tuple[int, int]:
    """How many bytes an announcement with one ping more takes, sent and received."""
    async with announced():
        await trio.sleep(23)
        await registry.delete("svc")
        await trio.sleep(23)
    assert network.last is not None
    return network.last.sent, network.last.received


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["sending", "receiving"])
async def test_a_connection_that_is_cut_anywhere_is_made_good(
    tmp_path: Path, network: Network, autojump_clock: MockClock, direction: str
) -> None:
    async with serving(tmp_path) as registry:
        sent, received = await conversation(network, registry)
        for at in range(1, sent if direction == "sending" else received, 37):
            setattr(network, f"cut_{direction}_at", at)
            async with announced() as announcement:
                await trio.sleep(23)
                await registry.delete("svc")
                await trio.sleep(60)
                with trio.fail_after(FIRST_PAUSE * 2):  # the cut may have been just now
                    await announcement.wait_for(Status.REGISTERED)
                assert is_active(registry), at
                network.cut_sending_at = network.cut_receiving_at = float("inf")
            assert announcement.status.value == "closed"


STATES = ("connecting", "refused by the net", "registered", "frozen", "refused", "registering")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("how", ["cancelled", "raised", "left"])
async def test_it_ends_in_time_from_every_state(
    tmp_path: Path,
    network: Network,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    how: str,
) -> None:
    """And is deregistered where the registry can be reached."""
    async with serving(tmp_path) as registry:
        listener = network.listener
        match state:
            case "connecting":
                network.listener, network.is_frozen = None, True
            case "refused by the net":
                network.listener = None
            case "refused":
                monkeypatch.setattr(registry, "register", refuse)
            case "registering":
                network.is_frozen = True
        began = trio.current_time()
        seen: list[Announcement] = []
        with trio.CancelScope() as scope:
            try:
                async with announced() as announcement:
                    seen.append(announcement)
                    if state == "frozen":
                        network.is_frozen = True
                    await trio.sleep(1)
                    began = trio.current_time()
                    match how:
                        case "cancelled":
                            scope.cancel()
                            await trio.sleep_forever()
                        case "raised":
                            raise KeyError(state)  # noqa: TRY301 - the case
            except KeyError:
                assert how == "raised"
        assert trio.current_time() - began <= LEAVE_SECONDS + 1e-6
        assert scope.cancelled_caught == (how == "cancelled")
        assert [each.status for each in seen] == [Status.CLOSED]
        network.listener = listener
        match state:
            case "registered":
                assert is_active(registry) is False
            case "refused":
                assert is_active(registry) is None


async def test_a_cancellation_on_the_way_in_leaves_nothing_behind(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    """The registration may be under way: what deregisters it must come after it."""
    for steps in range(60):
        async with serving(tmp_path / str(steps)) as registry:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel(scope: trio.CancelScope, steps: int) -> None:
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cancel, scope, steps)
                    async with announced():
                        await trio.sleep_forever()
            assert is_active(registry) in {None, False}, steps


async def test_the_status_can_be_waited_for(
    tmp_path: Path, network: Network, autojump_clock: MockClock
) -> None:
    seen: list[Status] = []

    async def note(announcement: Announcement, status: Status) -> None:
        await announcement.wait_for(status)
        seen.append(status)

    async with trio.open_nursery() as nursery:
        async with announced() as announcement:
            for status in (Status.CLOSED, Status.REGISTERED, Status.UNREACHABLE):
                nursery.start_soon(note, announcement, status)
            await trio.sleep(10)
            async with serving(tmp_path):
                await trio.sleep(60)
    assert seen == [Status.UNREACHABLE, Status.REGISTERED, Status.CLOSED]
