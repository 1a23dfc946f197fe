"""Who goes stale, and when: on a virtual clock."""

from __future__ import annotations

import itertools
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.errors import StorageFailed
from plexus_registry.rules.events import called
from plexus_registry.storage.opening import read_records
from plexus_registry.tasks.periodic import sweep_forever, sweep_once, write_pings_forever
from tests.fakes import Clock, Disk, opened

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from trio.testing import MockClock

    from plexus_registry.registry import Registry

STALE_AFTER = 60.0
SWEEP_INTERVAL = 5.0
PINGED = called("ping")
HUB = Register(name="hub", host="h", port=1)


def is_active(registry: Registry) -> bool:
    backend = registry.get("hub")
    assert backend is not None
    return backend.is_active


async def test_a_backend_that_pinged_goes_stale_at_the_first_sweep_after_its_term(
    tmp_path: Path,
    autojump_clock: MockClock,
) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(partial(sweep_forever, registry, every=SWEEP_INTERVAL))
        await registry.ping("hub")
        await trio.sleep(STALE_AFTER - 0.5)
        assert is_active(registry)
        await trio.sleep(SWEEP_INTERVAL + 1)
        assert not is_active(registry)
        nursery.cancel_scope.cancel()


async def test_a_backend_that_never_pings_stays_active(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(partial(sweep_forever, registry, every=SWEEP_INTERVAL))
        await trio.sleep(STALE_AFTER * 100)
        assert is_active(registry)
        nursery.cancel_scope.cancel()


async def test_pings_in_time_keep_it_active_and_a_late_one_revives_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(partial(sweep_forever, registry, every=SWEEP_INTERVAL))
        for _ in range(10):
            await registry.ping("hub")
            await trio.sleep(STALE_AFTER - SWEEP_INTERVAL - 1)
            assert is_active(registry)
        await trio.sleep(2 * STALE_AFTER)
        assert not is_active(registry)
        await registry.ping("hub")
        assert is_active(registry)
        nursery.cancel_scope.cancel()


async def test_a_wall_clock_that_jumps_makes_nobody_stale(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    clock = Clock()
    async with opened(tmp_path, now=clock) as registry:
        await registry.register(HUB)
        await registry.ping("hub")
        clock.now += 10 * 86_400
        await sweep_once(registry)
        assert is_active(registry)


async def test_after_a_restart_everyone_has_a_full_term(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as registry:
        await registry.register(HUB)
        await registry.ping("hub")
    await trio.sleep(STALE_AFTER - 1)
    async with opened(tmp_path) as registry:
        await trio.sleep(STALE_AFTER - 1)
        await sweep_once(registry)
        assert is_active(registry)
        await trio.sleep(2)
        await sweep_once(registry)
        assert not is_active(registry)


async def test_a_stall_of_the_process_moves_the_deadlines(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock leaps in one go, as it does for a process that was stopped."""
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.ping("hub")
        await nursery.start(partial(sweep_forever, registry, every=SWEEP_INTERVAL))
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(STALE_AFTER * 3)
        for _ in range(round(SWEEP_INTERVAL / 0.25) + 1):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.25)
        await trio.testing.wait_all_tasks_blocked()
        assert is_active(registry)
        assert "did not run for" in caplog.text
        mock_clock.autojump_threshold = 0
        await trio.sleep(STALE_AFTER + SWEEP_INTERVAL)
        assert not is_active(registry)
        nursery.cancel_scope.cancel()


async def test_a_sweep_that_cannot_be_saved_is_tried_again_and_logged_once(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.ping("hub")
        await nursery.start(partial(sweep_forever, registry, every=SWEEP_INTERVAL))
        disk.is_full = True
        await trio.sleep(STALE_AFTER + 5 * SWEEP_INTERVAL)
        assert is_active(registry)
        assert caplog.text.count("sweep failed") == 1
        disk.is_full = False
        await trio.sleep(SWEEP_INTERVAL)
        assert not is_active(registry)
        assert caplog.text.count("sweeps work again") == 1
        nursery.cancel_scope.cancel()


async def test_a_ping_is_on_the_disk_a_second_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(write_pings_forever, registry)
        await registry.ping("hub")
        assert last_seen_on_disk(tmp_path) is None
        await trio.sleep(1.01)
        assert last_seen_on_disk(tmp_path) is not None
        nursery.cancel_scope.cancel()


async def test_pings_that_cannot_be_saved_wait_and_are_logged_once(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(write_pings_forever, registry)
        disk.is_full = True
        await registry.ping("hub")
        await trio.sleep(10)
        assert caplog.text.count("pings not saved") == 1
        disk.is_full = False
        await trio.sleep(1.01)
        assert last_seen_on_disk(tmp_path) is not None
        nursery.cancel_scope.cancel()


async def test_many_pings_are_one_write(tmp_path: Path, autojump_clock: MockClock) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        for index in range(50):
            await registry.register(Register(name=f"hub{index}", host="h", port=1))
        await nursery.start(write_pings_forever, registry)
        before = disk.saves
        for index in range(50):
            await registry.ping(f"hub{index}")
        await trio.sleep(1.01)
        assert disk.saves == before + 1
        nursery.cancel_scope.cancel()


async def test_pings_that_are_written_cost_no_further_write(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(write_pings_forever, registry)
        await registry.ping("hub")
        await trio.sleep(1.01)
        saves = disk.saves
        await trio.sleep(60)
        assert disk.saves == saves
        with trio.move_on_after(60) as nothing_to_write:
            await registry.pings.wait()
        assert nothing_to_write.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_a_ping_waits_for_no_commit_of_pings_and_is_written_after_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk, clock = Disk(), Clock()
    async with opened(tmp_path, disk, now=clock) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(write_pings_forever, registry)
        await registry.ping("hub")
        barrier = disk.barrier = trio.Event()
        await disk.reached_barrier.wait()
        clock.now += 10
        assert not takes_a_wait(registry.ping("hub"))
        disk.barrier = None
        barrier.set()
        await trio.sleep(2.02)
        assert last_seen_on_disk(tmp_path) == clock.now
        nursery.cancel_scope.cancel()


def takes_a_wait(work: Coroutine[object, object, object]) -> bool:
    """Run a coroutine up to its first wait, and tell whether it has one."""
    try:
        work.send(None)
    except StopIteration:
        return False
    work.close()
    return True


@pytest.mark.parametrize("held_up", ["by nothing", "by an update", "by an update of its own"])
async def test_a_disk_that_hangs_makes_nobody_stale(
    tmp_path: Path, autojump_clock: MockClock, held_up: str
) -> None:
    """Each backend pings in time over a connection of its own, where requests go in order."""
    disk = Disk()
    names = [f"hub{index}" for index in range(20)]

    async def ping_regularly(registry: Registry, name: str) -> None:
        while True:
            await registry.ping(name)
            await trio.sleep(STALE_AFTER / 6)
            if held_up == "by an update":
                await registry.update(Update(name="other", description=name))
            elif held_up == "by an update of its own":
                await registry.update(Update(name=name, description=str(trio.current_time())))

    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        for name in ["other", *names]:
            await registry.register(Register(name=name, host="h", port=1))
        await nursery.start(partial(sweep_forever, registry, every=SWEEP_INTERVAL))
        await nursery.start(write_pings_forever, registry)
        for name in names:
            nursery.start_soon(ping_regularly, registry, name)
        for _ in range(3):
            await trio.sleep(20.5)
            barrier = disk.barrier = trio.Event()
            await trio.sleep(1.2 * STALE_AFTER)
            disk.barrier = None
            barrier.set()
            await trio.sleep(STALE_AFTER)
        events = "".join(entry.event for entry in registry.change_log.after(0))
        assert "backend_stale" not in events
        nursery.cancel_scope.cancel()


async def test_a_slow_disk_does_not_keep_the_silent_active(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()

    async def write(registry: Registry) -> None:
        for count in itertools.count():
            await registry.update(Update(name="other", description=str(count)))

    async def let_through() -> None:
        while True:
            barrier = disk.barrier = trio.Event()
            await trio.sleep(1)
            barrier.set()

    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.register(Register(name="other", host="h", port=1))
        await registry.ping("hub")
        await nursery.start(partial(sweep_forever, registry, every=SWEEP_INTERVAL))
        nursery.start_soon(let_through)
        nursery.start_soon(write, registry)
        await trio.sleep(STALE_AFTER + 3 * SWEEP_INTERVAL)
        is_found = not is_active(registry)
        barrier, disk.barrier = disk.barrier, None
        assert barrier is not None
        barrier.set()  # a commit in hand is finished though everything is cancelled
        nursery.cancel_scope.cancel()
    assert is_found


@pytest.mark.parametrize("fails", [False, True])
async def test_a_ping_beside_a_change_of_its_name_is_repeated_after_it(
    tmp_path: Path, autojump_clock: MockClock, fails: bool
) -> None:
    disk, clock = Disk(), Clock()
    async with opened(tmp_path, disk, now=clock) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await nursery.start(write_pings_forever, registry)
        barrier = disk.barrier = trio.Event()
        async with trio.open_nursery() as change:
            change.start_soon(try_update, registry)
            await disk.reached_barrier.wait()
            change.start_soon(registry.ping, "hub")
            await trio.testing.wait_all_tasks_blocked()
            disk.barrier, disk.is_full = None, fails
            barrier.set()
        disk.is_full = False
        backend = registry.get("hub")
        assert backend is not None
        assert (backend.description, backend.last_seen) == (None if fails else "new", clock.now)
        await trio.sleep(1.01)
        assert last_seen_on_disk(tmp_path) == clock.now
        nursery.cancel_scope.cancel()


async def try_update(registry: Registry) -> None:
    with suppress(StorageFailed):
        await registry.update(Update(name="hub", description="new"))


async def test_a_ping_beside_the_sweep_that_marks_its_backend_revives_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.ping("hub")
        await registry.pings.write()
        await nursery.start(write_pings_forever, registry)
        await trio.sleep(STALE_AFTER + 1)
        barrier = disk.barrier = trio.Event()
        async with trio.open_nursery() as sweep:
            sweep.start_soon(sweep_once, registry)
            await disk.reached_barrier.wait()
            sweep.start_soon(registry.ping, "hub")
            await trio.testing.wait_all_tasks_blocked()
            disk.barrier = None
            barrier.set()
        assert is_active(registry)
        await trio.sleep(STALE_AFTER - 5)
        await sweep_once(registry)
        assert is_active(registry), "it has a full term again"
        nursery.cancel_scope.cancel()


async def test_a_goodbye_after_such_a_ping_counts_for_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.ping("hub")
        await trio.sleep(STALE_AFTER + 1)
        barrier = disk.barrier = trio.Event()
        async with trio.open_nursery() as sweep:
            sweep.start_soon(sweep_once, registry)
            await disk.reached_barrier.wait()
            sweep.start_soon(registry.ping, "hub")
            await trio.testing.wait_all_tasks_blocked()
            sweep.start_soon(registry.deregister, "hub")
            await trio.testing.wait_all_tasks_blocked()
            disk.barrier = None
            barrier.set()
        await registry.pings.write()
        assert not is_active(registry)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_last", [False, True])
async def test_of_a_late_ping_and_a_goodbye_the_later_counts(
    tmp_path: Path, autojump_clock: MockClock, is_last: bool
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.deregister("hub")
        barrier = disk.barrier = trio.Event()
        nursery.start_soon(registry.register, Register(name="other", host="h", port=1))
        await disk.reached_barrier.wait()
        async with trio.open_nursery() as connection:  # it ends before the disk works again
            pinged = await registry.pings.ping_in_time("hub", PINGED, nursery.start_soon)
            assert pinged.success
            nursery.start_soon(registry.deregister, "hub")
            await trio.testing.wait_all_tasks_blocked()
            if is_last:
                await registry.pings.ping_in_time("hub", PINGED, connection.start_soon)
                connection.start_soon(release, disk, barrier)
            connection.cancel_scope.cancel()
        await release(disk, barrier)
        await trio.testing.wait_all_tasks_blocked()
        await registry.pings.write()
        assert is_active(registry) == is_last


async def test_late_pings_of_one_name_take_one_place_in_the_queue(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.deregister("hub")
        barrier = disk.barrier = trio.Event()
        nursery.start_soon(registry.register, Register(name="other", host="h", port=1))
        await disk.reached_barrier.wait()
        for _ in range(20):
            assert (await registry.pings.ping_in_time("hub", PINGED, nursery.start_soon)).success
        await trio.testing.wait_all_tasks_blocked()
        queued = len(registry.commits._queue)
        await release(disk, barrier)
    assert queued == 1


async def test_a_bug_in_a_late_ping_is_logged(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    async with opened(tmp_path, disk) as registry, trio.open_nursery() as nursery:
        await registry.register(HUB)
        await registry.deregister("hub")
        barrier = disk.barrier = trio.Event()
        nursery.start_soon(registry.register, Register(name="other", host="h", port=1))
        await disk.reached_barrier.wait()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry.pings, "_commit", lambda *_: 1 / 0)
            assert (await registry.pings.ping_in_time("hub", PINGED, nursery.start_soon)).success
            await release(disk, barrier)
            await trio.testing.wait_all_tasks_blocked()
    assert 'a ping of "hub" failed' in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def release(disk: Disk, barrier: trio.Event) -> None:
    disk.barrier = None
    barrier.set()


def last_seen_on_disk(folder: Path) -> int | None:
    (record,) = read_records(folder / "registry.db")
    assert record.backend is not None
    return record.backend.last_seen
