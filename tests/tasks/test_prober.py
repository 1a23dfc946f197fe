"""The prober on a virtual clock, with hubs in memory and the real registry."""

from __future__ import annotations

import errno
import itertools
import random
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from plexus_registry.health.evidence import ROUNDS
from plexus_registry.rules.backend import Health, Register, State, Update
from plexus_registry.rules.errors import NotFound
from plexus_registry.rules.states import Answered, Unanswered
from plexus_registry.server.pages import health_report
from plexus_registry.storage.opening import read_records
from plexus_registry.tasks.periodic import sweep_forever
from plexus_registry.tasks.prober import probe_forever
from tests.fakes import Disk, opened
from tests.memory_hubs import HASH, Hub, MemoryNetwork, answer_after, hang, talk_on, want_credential

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from plexus_registry.health.network import SocketAddress
    from plexus_registry.registry import Registry

INTERVAL = 15.0


class Harness:
    """A registry with its prober and sweeper, and the hubs that it knows."""

    def __init__(self, registry: Registry, network: MemoryNetwork) -> None:
        self.registry = registry
        self.network = network

    def add_hub(self, hub: Hub, port: int | None = None) -> int:
        port = port or 5000 + len(self.network.hubs)
        self.network.hubs[port] = hub
        return port

    async def register(self, hub: Hub) -> int:
        port = self.add_hub(hub)
        await self.registry.register(Register(name=hub.name, host="127.0.0.1", port=port))
        return port

    def is_suspect(self) -> bool:
        return self.registry.health.suspects_network

    def report(self) -> dict[str, object]:
        return health_report(
            self.registry,
            db_path=Path("r.db"),
            uptime_seconds=0.0,
            connections=0,
            refused=Counter(),
        )

    def state(self, name: str) -> State:
        backend = self.registry.get(name)
        assert backend is not None
        return backend.state

    def health(self, name: str) -> Health:
        backend = self.registry.get(name)
        assert backend is not None
        assert backend.health is not None
        return backend.health


@asynccontextmanager
async def running(
    folder: Path,
    *,
    disk: Disk | None = None,
    network: MemoryNetwork | None = None,
    interval: float = INTERVAL,
) -> AsyncIterator[Harness]:
    async with trio.open_nursery() as nursery:
        network = network or MemoryNetwork(nursery)
        async with opened(folder, disk, network=network, probe_interval=interval) as registry:
            async with trio.open_nursery() as tasks:
                chance = random.Random(6).random  # noqa: S311 - the same in every run
                probe = partial(probe_forever, registry, interval=interval, chance=chance)
                await tasks.start(probe)
                await tasks.start(partial(sweep_forever, registry, every=5.0))
                yield Harness(registry, network)
                tasks.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_a_new_backend_is_probed_within_a_second_and_shows_what_was_learned(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        await harness.register(Hub("hub", behave=answer_after(0.2), version="7"))
        assert harness.state("hub") is State.UNKNOWN
        await trio.sleep(1)
        backend = harness.registry.get("hub")
        assert backend is not None
        assert (backend.state, backend.version) == (State.UP, "7")
        health = harness.health("hub")
        assert (health.latency_ms, health.schema_hash) == (200.0, HASH)
        assert health.last_probe is not None


async def test_everyone_is_probed_within_a_second_of_the_start(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hubs = [Hub(f"hub{index}") for index in range(20)]
    async with running(tmp_path) as harness:
        for hub in hubs:
            await harness.register(hub)
        network = harness.network
    async with trio.open_nursery() as nursery:
        again = MemoryNetwork(nursery, network.hubs.items())
        for hub in hubs:
            hub.asked.clear()
        async with running(tmp_path, network=again):
            began = trio.current_time()
            await trio.sleep(1)
            assert all(hub.asked and hub.asked[0] - began <= 1 for hub in hubs)
        nursery.cancel_scope.cancel()


async def test_a_prober_that_starts_again_on_the_same_registry_probes_everyone_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hub = Hub("hub")
    async with running(tmp_path) as harness:
        await harness.register(hub)
        await trio.sleep(1)
        async with trio.open_nursery() as tasks:
            hub.asked.clear()
            began = trio.current_time()
            await tasks.start(partial(probe_forever, harness.registry, interval=INTERVAL))
            await trio.sleep(1)
            tasks.cancel_scope.cancel()
    assert [moment - began for moment in hub.asked] == [0]


async def test_probes_are_spread_and_none_is_later_than_the_interval(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hubs = [Hub(f"hub{index}") for index in range(30)]
    async with running(tmp_path) as harness:
        for hub in hubs:
            await harness.register(hub)
        await trio.sleep(10 * INTERVAL)
    for hub in hubs:
        gaps = [later - earlier for earlier, later in itertools.pairwise(hub.asked)]
        assert len(gaps) >= 9
        assert max(gaps) <= INTERVAL + 0.01
        assert min(gaps[1:]) >= 0.9 * (INTERVAL - 0.1) - 0.01
    middle = [moment for hub in hubs for moment in hub.asked if moment > 5 * INTERVAL]
    per_second = [sum(second <= each < second + 1 for each in middle) for second in range(80, 140)]
    assert max(per_second) <= 8, "in step there would be thirty"


@pytest.mark.parametrize("interval", [0.1, 1.0])
async def test_a_short_interval_is_kept_too(
    tmp_path: Path, autojump_clock: MockClock, interval: float
) -> None:
    hub = Hub("hub")
    async with running(tmp_path, interval=interval) as harness:
        await harness.register(hub)
        await trio.sleep(20 * interval)
    gaps = [later - earlier for earlier, later in itertools.pairwise(hub.asked)]
    assert max(gaps) <= interval + 0.001
    assert sum(gaps[2:]) / len(gaps[2:]) > 0.9 * interval


async def test_a_hub_that_dies_is_down_after_three_failures_and_back_at_the_first_answer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        hub = Hub("hub")
        port = await harness.register(hub)
        await trio.sleep(1)
        del harness.network.hubs[port]
        await trio.sleep(2 * INTERVAL)
        assert harness.state("hub") is State.UP
        await trio.sleep(INTERVAL + 1)
        assert harness.state("hub") is State.DOWN
        assert [backend.name for backend in harness.registry.list()] == []
        reason = harness.health("hub").reason or ""
        assert reason.startswith("3 probes in a row failed, the last one: connect: connection ref")
        harness.add_hub(hub, port)
        await trio.sleep(INTERVAL)
        assert harness.state("hub") is State.UP


async def test_a_hub_that_comes_back_elsewhere_is_up_within_a_second(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        port = await harness.register(Hub("hub"))
        await trio.sleep(1)
        del harness.network.hubs[port]
        await trio.sleep(4 * INTERVAL)
        port = harness.add_hub(Hub("hub"), 6000)
        await harness.registry.register(
            Register(name="hub", host="127.0.0.1", port=port, source="auto")
        )
        await trio.sleep(1)
        assert harness.state("hub") is State.UP
        await harness.registry.update(Update(name="hub", port=6001))
        assert harness.registry.get("hub") is not None
        await trio.sleep(1)
        assert harness.health("hub").failures == 1


async def test_a_hub_that_still_answers_survives_a_goodbye(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        await harness.register(Hub("hub"))
        await trio.sleep(1)
        await harness.registry.deregister("hub")
        assert harness.state("hub") is State.DEREGISTERED
        await trio.sleep(0.1)
        assert harness.state("hub") is State.UP


async def test_a_hub_that_says_goodbye_before_it_stops_is_gone_at_the_second_look(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        port = await harness.register(Hub("hub"))
        await trio.sleep(1)
        await harness.registry.deregister("hub")
        await trio.sleep(0.1)
        del harness.network.hubs[port]
        await trio.sleep(1.1)
        assert harness.state("hub") is State.DEREGISTERED


async def test_a_hub_of_another_name_is_inactive_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        port = harness.add_hub(Hub("other"))
        await harness.registry.register(Register(name="hub", host="127.0.0.1", port=port))
        await trio.sleep(0.1)
        assert harness.state("hub") is State.WRONG_HUB
        assert harness.health("hub").reason == 'it answers as "other", not as "hub"'


async def test_a_new_schema_is_a_lasting_change_and_a_probe_alone_is_none(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk) as harness:
        hub = Hub("hub")
        await harness.register(hub)
        await trio.sleep(1)
        saves = disk.saves
        await trio.sleep(5 * INTERVAL)
        assert disk.saves == saves
        hub.schema_hash = "aaaaaaaaaaaaaaaa"
        await trio.sleep(INTERVAL)
        assert disk.saves == saves + 1
        (record,) = read_records(tmp_path / "registry.db")
        assert record.backend is not None
        assert record.backend.health is not None
        assert record.backend.health.schema_hash == "aaaaaaaaaaaaaaaa"
        assert record.backend.health.last_probe is None


async def test_the_state_outlives_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as harness:
        port = harness.add_hub(Hub("other"))
        await harness.registry.register(Register(name="hub", host="127.0.0.1", port=port))
        await trio.sleep(0.1)
        before = harness.health("hub")
    async with opened(tmp_path) as registry:
        backend = registry.get("hub")
        assert backend is not None
        assert backend.health is not None
        assert not backend.is_active
        assert (backend.state, backend.health.since) == (State.WRONG_HUB, before.since)
        assert (backend.health.reason, backend.health.last_probe) == (before.reason, None)


async def test_a_database_from_before_there_was_health_is_taken_over(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as registry:
        await registry.register(Register(name="silent", host="h", port=1))
        await registry.register(Register(name="gone", host="h", port=1))
        await registry.ping("gone")
        await registry.deregister("gone")
    with closing(sqlite3.connect(tmp_path / "registry.db")) as database, database:
        database.execute("ALTER TABLE backends DROP COLUMN health")
        database.execute("DELETE FROM _sqlite_migrations WHERE name = '003_health'")
        database.execute("PRAGMA user_version = 2")
    async with opened(tmp_path) as registry:
        states = {each.name: each.state for each in registry.list(active_only=False)}
        assert states == {"silent": State.UNKNOWN, "gone": State.STALE}


async def test_no_more_than_the_slots_are_in_use_and_slow_hubs_hold_nobody_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        for index in range(200):
            await harness.register(Hub(f"slow{index}", behave=hang))
        quick = Hub("quick")
        await harness.register(quick)
        await trio.sleep(4 * INTERVAL)
        assert harness.network.most_streams == 64
        # 200 hubs that cost two seconds each need 6.25 s of all slots in every round.
        assert max(b - a for a, b in itertools.pairwise(quick.asked)) <= INTERVAL + 7
        assert harness.state("quick") is State.UP
        assert harness.state("slow0") is State.DOWN


async def test_when_the_own_network_fails_none_is_marked_for_five_rounds(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"hub{index}" for index in range(40)]
    async with running(tmp_path) as harness:
        for name in names:
            await harness.register(Hub(name))
        await trio.sleep(INTERVAL)
        harness.network.is_down = True
        await trio.sleep(ROUNDS * INTERVAL - 1)
        assert harness.is_suspect()
        assert harness.report()["network"] == "suspect"
        assert {harness.state(name) for name in names} == {State.UP}
        assert caplog.text.count("suspects its own network") == 1
        await trio.sleep(2.5 * INTERVAL)
        down = [name for name in names if harness.state(name) is State.DOWN]
        assert 0 < len(down) <= 30, "no more than a quarter in a round"
        harness.network.is_down = False
        await trio.sleep(2 * INTERVAL)
        assert {harness.state(name) for name in names} == {State.UP}
        assert not harness.is_suspect()
        assert harness.report()["network"] == "trusted"
        assert caplog.text.count("suspects its own network") == 1


@pytest.mark.parametrize("probe_seconds", [2.0, inf])
async def test_a_hub_that_hangs_costs_one_slot_for_at_most_the_timeout(
    tmp_path: Path, autojump_clock: MockClock, probe_seconds: float
) -> None:
    """Without an end to a probe, as many hubs as there are slots stop all probing."""
    async with running(tmp_path) as harness:
        harness.registry.probe.timeout_seconds = probe_seconds
        for index in range(64):
            await harness.register(Hub(f"hangs{index}", behave=talk_on if index % 2 else hang))
        await trio.sleep(INTERVAL)
        quick = Hub("quick")
        await harness.register(quick)
        await trio.sleep(3 * INTERVAL)
        assert len(quick.asked) >= 3 if probe_seconds < inf else not quick.asked


async def test_checks_on_a_hub_that_hangs_delay_no_round(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness, trio.open_nursery() as checks:
        await harness.register(Hub("hangs", behave=hang))
        quick = Hub("quick")
        await harness.register(quick)
        for _ in range(1000):
            checks.start_soon(harness.registry.check, "hangs")
        await trio.sleep(4 * INTERVAL)
        assert max(b - a for a, b in itertools.pairwise(quick.asked)) <= INTERVAL + 0.2
        assert harness.network.most_streams <= 1 + 64 / 8 + 1
        checks.cancel_scope.cancel()


async def test_a_machine_without_descriptors_judges_no_backend(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as harness:
        await harness.register(Hub("hub"))
        await trio.sleep(INTERVAL)

        async def refuse(_address: SocketAddress) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EMFILE, "Too many open files")

        harness.network.connect = refuse  # type: ignore[method-assign, assignment]  # no descriptors
        await trio.sleep(8 * INTERVAL)
        assert harness.state("hub") is State.UP
        assert harness.health("hub").failures == 0
        said = 'cannot be probed, and are not judged: "hub": connect: too many open files'
        assert caplog.text.count(said) == 2, "once a minute"


async def test_a_ping_keeps_a_backend_up_that_cannot_be_reached(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        await harness.registry.register(Register(name="hub", host="127.0.0.1", port=9))
        for _ in range(10):
            await harness.registry.ping("hub")
            await trio.sleep(INTERVAL)
            assert harness.state("hub") is State.UP
        await trio.sleep(66)
        assert harness.state("hub") is State.DOWN


async def test_a_pause_of_the_process_counts_against_no_backend(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock leaps in one go, as it does for a process that was stopped in mid-probe."""
    async with running(tmp_path) as harness:
        hub = Hub("hub")
        await harness.register(hub)
        for _ in range(8):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.25)
        assert harness.state("hub") is State.UP
        hub.behave = hang
        mock_clock.autojump_threshold = 0
        await trio.sleep(2 * INTERVAL + 3)
        mock_clock.autojump_threshold = float("inf")
        assert harness.health("hub").failures == 2
        mock_clock.jump(100)
        await trio.testing.wait_all_tasks_blocked()
        hub.behave = None
        assert harness.state("hub") is State.UP
        assert "did not run for" in caplog.text
        mock_clock.autojump_threshold = 0
        await trio.sleep(INTERVAL)
        assert harness.health("hub").failures == 0


async def test_an_outcome_that_cannot_be_saved_comes_again_and_is_logged_once(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk = Disk()
    async with running(tmp_path, disk=disk) as harness:
        await harness.register(Hub("hub"))
        disk.is_full = True
        await trio.sleep(3 * INTERVAL)
        assert harness.state("hub") is State.UNKNOWN
        disk.is_full = False
        await trio.sleep(INTERVAL)
        assert harness.state("hub") is State.UP
        assert caplog.text.count("what probes found is not saved") == 1
        assert caplog.text.count("what probes find is saved again") == 1


async def test_a_deleted_backend_is_not_probed_any_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        hub = Hub("hub")
        await harness.register(hub)
        await trio.sleep(1)
        await harness.registry.delete("hub")
        hub.asked.clear()
        await trio.sleep(3 * INTERVAL)
        assert hub.asked == []


async def test_a_check_probes_at_once_returns_the_steps_and_counts(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        hub = Hub("hub", behave=answer_after(0.5))
        await harness.register(hub)
        checked = await harness.registry.check("hub")
        assert checked.ok
        assert [step.step for step in checked.steps] == [
            *("resolve", "connect", "upgrade", "_info", "name"),
        ]
        assert checked.backend is not None
        assert checked.backend.state is State.UP
        with pytest.raises(NotFound):
            await harness.registry.check("nobody")


async def test_without_probes_a_check_returns_the_steps_and_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery)
        async with opened(tmp_path, network=network) as registry:
            await registry.register(Register(name="hub", host="127.0.0.1", port=1))
            checked = await registry.check("hub")
            assert not checked.ok
            assert checked.steps[-1].detail == "connection refused"
            backend = registry.get("hub")
            assert backend is not None
            assert backend.health is None
        nursery.cancel_scope.cancel()


async def test_a_hub_that_is_gone_after_its_goodbye_is_probed_no_more_often(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        hub = Hub("a")
        port = await harness.register(hub)
        await trio.sleep(1)
        await harness.registry.deregister("a")
        del harness.network.hubs[port]
        await trio.sleep(2)
        before = harness.network.connections
        await trio.sleep(4 * INTERVAL)
        assert harness.network.connections - before <= 5


async def test_a_backend_that_registers_again_is_probed_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        port = await harness.register(Hub("a"))
        await trio.sleep(3)
        before = harness.network.connections
        await harness.registry.register(Register(name="a", host="127.0.0.1", port=port))
        await trio.sleep(1)
        assert harness.network.connections == before + 1


@pytest.mark.parametrize("outcome", [Unanswered(reason="gone"), Answered(name="a", latency_ms=1)])
async def test_a_call_that_is_committed_beside_a_probe_counts_for_more(
    tmp_path: Path, outcome: Unanswered | Answered
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk, probe_interval=INTERVAL, probe_failures=2) as registry:
        await registry.register(Register(name="a", host="h", port=1))
        probed = registry.get("a")
        assert probed is not None
        if isinstance(outcome, Unanswered):  # the first of two failures
            await registry.health.note_probe(probed, outcome, began=trio.current_time())
        disk.barrier = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.update, Update(name="a", description="first"))
            await disk.reached_barrier.wait()
            if isinstance(outcome, Answered):
                nursery.start_soon(registry.deregister, "a")
            else:
                again = Register(name="a", host="h", port=1, source="auto")
                nursery.start_soon(registry.register, again)
            await trio.testing.wait_all_tasks_blocked()
            note = partial(registry.health.note_probe, began=trio.current_time())
            nursery.start_soon(note, probed, outcome)
            await trio.testing.wait_all_tasks_blocked()
            barrier, disk.barrier = disk.barrier, None
            barrier.set()
        found = registry.get("a")
        assert found is not None
        assert found.state is (
            State.DEREGISTERED if isinstance(outcome, Answered) else State.UNKNOWN
        )


async def test_a_change_that_the_commit_declines_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk = Disk()
    async with opened(tmp_path, disk, probe_interval=INTERVAL, probe_failures=2) as registry:
        for name in ("a", "other"):
            await registry.register(Register(name=name, host="h", port=1))
        probed = registry.get("a")
        assert probed is not None
        gone = Unanswered(reason="gone")
        await registry.health.note_probe(probed, gone, began=trio.current_time())  # of two
        disk.barrier = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.update, Update(name="other", description="first"))
            await disk.reached_barrier.wait()
            nursery.start_soon(registry.deregister, "a")
            await trio.testing.wait_all_tasks_blocked()
            note = partial(registry.health.note_probe, began=trio.current_time())
            nursery.start_soon(note, probed, gone)
            await trio.testing.wait_all_tasks_blocked()
            barrier, disk.barrier = disk.barrier, None
            barrier.set()
        found = registry.get("a")
        assert found is not None
        assert found.state is State.DEREGISTERED
        assert "is down" not in caplog.text


async def test_a_failure_that_leaves_the_state_unknown_is_not_reported(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk) as harness:
        await harness.registry.register(Register(name="hub", host="127.0.0.1", port=9))
        saves, revision = disk.saves, harness.registry.change_log.revision
        await trio.sleep(INTERVAL + 1)
        assert (harness.state("hub"), harness.health("hub").failures) == (State.UNKNOWN, 2)
        assert (disk.saves, harness.registry.change_log.revision) == (saves, revision)


async def test_a_hub_that_wants_a_credential_is_probed_less_and_less_often(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        guarded, open_hub = Hub("guarded", behave=want_credential), Hub("open")
        await harness.register(guarded)
        await harness.register(open_hub)
        await trio.sleep(3600)
        waits = [b - a for a, b in itertools.pairwise(guarded.asked)]
        for wait, longest in zip(waits[1:], (60, 120, 240, 480, 600, 600, 600), strict=False):
            assert longest * 0.9 <= wait <= longest + 1
        assert max(waits) <= 600 + 1
        assert len(open_hub.asked) >= 3600 / INTERVAL, "the others are probed as ever"

        # Whoever registers is news, and the row begins anew.
        began = trio.current_time()
        await harness.registry.register(
            Register(name="guarded", host="127.0.0.1", port=5000, description="again")
        )
        guarded.asked.clear()
        await trio.sleep(3 * INTERVAL)
        assert [round(each - began) for each in guarded.asked[:1]] == [0]
        assert len(guarded.asked) >= 2

        # An answer is, too, also one to a check: from then on it is probed in each round.
        await trio.sleep(3600)
        guarded.behave = None
        checked = await harness.registry.check("guarded")
        assert checked.ok
        guarded.asked.clear()
        await trio.sleep(10 * INTERVAL)
        assert len(guarded.asked) >= 10
        assert harness.state("guarded") is State.UP


async def test_a_hub_that_wanted_a_credential_and_dies_is_probed_in_each_round_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as harness:
        port = await harness.register(Hub("guarded", behave=want_credential))
        await trio.sleep(3600)
        hub = harness.network.hubs.pop(port)
        hub.asked.clear()
        await trio.sleep(600 + 3 * INTERVAL)
        assert harness.state("guarded") is State.DOWN
