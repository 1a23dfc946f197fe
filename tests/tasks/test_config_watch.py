"""When the config file is looked at, and what a look does."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from plexus_registry.config import file as config_file
from plexus_registry.config.file import MAX_BYTES
from plexus_registry.rules.backend import Declaration, Layer
from plexus_registry.rules.errors import ConfigInvalid, StorageFailed
from plexus_registry.tasks.periodic import watch_config_forever, watch_config_once
from tests.fakes import Disk, entry, opened

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from plexus_registry.registry import Registry


def names(registry: Registry) -> list[str]:
    return sorted(backend.name for backend in registry.list(active_only=False))


def port_of(registry: Registry, name: str) -> int:
    backend = registry.get(name)
    assert backend is not None
    return backend.port


async def look(registry: Registry) -> None:
    await watch_config_once(registry)


async def test_a_change_is_applied_at_the_second_look(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        assert names(registry) == ["a"]
        await nursery.start(partial(watch_config_forever, registry, every=1.0))
        file.write_text(entry("a", 2) + entry("b"))
        await trio.sleep(1.9)
        assert names(registry) == ["a"]
        await trio.sleep(0.2)
        assert names(registry) == ["a", "b"]
        found = registry.get("a")
        assert found is not None
        assert found.port == 2
        nursery.cancel_scope.cancel()


async def test_a_file_that_is_missing_once_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        file.unlink()
        await look(registry)
        file.write_text(entry("a") + entry("b"))
        await look(registry)
        await look(registry)
        assert names(registry) == ["a", "b"]
        file.unlink()
        await look(registry)
        assert names(registry) == ["a", "b"]
        await look(registry)
        assert names(registry) == []


async def test_a_file_that_is_empty_once_is_being_written(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        file.write_text("")
        await look(registry)
        assert names(registry) == ["a"]
        await look(registry)
        assert names(registry) == []


async def test_a_file_that_changes_at_every_look_is_read_once_it_stays(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        for port in (10, 200, 3000):
            file.write_text(entry("a", port))
            await look(registry)
            assert port_of(registry, "a") == 1
        await look(registry)
        assert port_of(registry, "a") == 3000


async def test_what_changes_while_it_is_read_is_left_for_the_next_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        file.write_text(entry("a") + entry("b"))
        await look(registry)
        read_bytes = config_file._read_bytes

        def read_and_change(path: Path) -> bytes:
            data = read_bytes(path)
            path.write_text(entry("later"))
            return data

        with monkeypatch.context() as patch:
            patch.setattr(config_file, "_read_bytes", read_and_change)
            await look(registry)
        assert names(registry) == ["a"]
        await look(registry)
        assert names(registry) == ["later"]


async def test_a_file_that_is_missing_at_the_start_is_missed_once_until_an_interval_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path):
        file.unlink()
    async with opened(tmp_path) as registry, trio.open_nursery() as nursery:
        await nursery.start(partial(watch_config_forever, registry, every=1.0))
        await trio.sleep(0.9)
        assert names(registry) == ["a"]
        await trio.sleep(0.2)
        assert names(registry) == []
        nursery.cancel_scope.cancel()


async def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "backends.toml").write_bytes(b"\xef\xbb\xbf" + entry("a").encode())
    async with opened(tmp_path) as registry:
        assert names(registry) == ["a"]


async def test_a_look_is_one_step_in_a_worker_thread(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        file.write_text("[[backend")
        for _ in range(3):
            before = disk.saves
            await look(registry)
            assert disk.saves == before + 1
        assert registry.config.error is not None


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 40 * 2**30])
async def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        with file.open("r+b") as opened_file:
            opened_file.truncate(size)
        for _ in range(3):
            await look(registry)
        assert names(registry) == ["a"]
        assert caplog.text.count("is larger than 8388608 bytes") == 1
        with file.open("r+b") as opened_file:
            opened_file.truncate(len(entry("a")))
        await look(registry)
        await look(registry)
        assert registry.config.error is None


async def test_what_is_no_regular_file_is_refused_without_a_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path):
        pass
    file.unlink()
    os.mkfifo(file)
    async with opened(tmp_path) as registry:  # it would wait for a writer here
        assert names(registry) == ["a"]
        assert "is not a regular file" in caplog.text
        file.unlink()
        file.symlink_to("/dev/zero")
        await look(registry)
        await look(registry)
        assert names(registry) == ["a"]


async def test_an_invalid_file_is_logged_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        file.write_text(entry("b") + '[[backend]]\nname = "c"\nhost = "h"\nport = 0\n')
        for _ in range(3):
            await look(registry)
        assert names(registry) == ["a"]
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1
        assert "line 8" in errors[0]
        assert "port 0 must be an integer from 1 to 65535" in errors[0]
        with pytest.raises(ConfigInvalid) as refusal:
            await registry.reload()
        assert refusal.value.data["line"] == 8
        assert registry.config.error is not None
        text = file.read_text()
        file.unlink()
        file.write_text(text)  # the same again, in a new file
        for _ in range(3):
            await look(registry)
        assert [each.levelname for each in caplog.records].count("ERROR") == 1
        file.write_text(entry("c"))
        await look(registry)
        await look(registry)
        assert names(registry) == ["c"]
        assert registry.config.error is None


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
async def test_a_file_that_cannot_be_read_is_an_invalid_one(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        file.unlink()
        if content is None:
            file.mkdir()
        else:
            file.write_bytes(content)
        await look(registry)
        await look(registry)
        assert names(registry) == ["a"]
        assert caplog.text.count("config file kept out") == 1


async def test_the_last_good_entries_survive_a_restart_with_an_invalid_file(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path):
        pass
    file.write_text("[[backend")
    async with opened(tmp_path) as registry:
        assert names(registry) == ["a"]


async def test_a_change_that_cannot_be_saved_is_applied_once_it_can(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    disk = Disk()
    async with opened(tmp_path, disk) as registry:
        file.write_text(entry("a"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry.commits._store, "save", _fail)
            await look(registry)
            await look(registry)
            with pytest.raises(StorageFailed):
                await registry.reload()
        assert names(registry) == []
        await look(registry)
        assert names(registry) == ["a"]


async def _fail(_changes: object) -> None:
    await trio.lowlevel.checkpoint()
    raise StorageFailed("disk full")


async def test_an_unknown_key_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "backends.toml").write_text(entry("a") + "colour = 1\n")
    async with opened(tmp_path) as registry:
        assert names(registry) == ["a"]
    assert 'line 5: backend 1: unknown key "colour" is ignored' in caplog.text


async def test_a_reload_lifts_a_tombstone_and_a_look_does_not(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(entry("a"))
    async with opened(tmp_path) as registry:
        await registry.delete("a")
        file.write_text(entry("a", 2))
        await look(registry)
        await look(registry)
        assert names(registry) == []
        report = await registry.reload()
        assert names(registry) == ["a"]
        assert report.count == 1


async def test_only_the_config_file_is_reported_as_reloaded(tmp_path: Path) -> None:
    declared = {"x": Declaration(name="x", host="h", port=1)}
    async with opened(tmp_path) as registry:
        for layer, is_told in ((Layer.ENV, False), (Layer.AUTO, False), (Layer.FILE, True)):
            before = registry.change_log.revision
            await registry.declare(layer, declared)
            events = [entry.event for entry in registry.change_log.after(before)]
            assert any('"reloaded"' in event for event in events) is is_told, layer


async def test_the_log_names_the_first_of_many_backends_and_counts_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "backends.toml").write_text("".join(entry(f"b{each:03}") for each in range(500)))
    async with opened(tmp_path):
        pass
    (line,) = [each for each in caplog.messages if "config file applied" in each]
    assert "500 backends; added b000, b001," in line
    assert "b019 and 480 more; updated none; removed none" in line
