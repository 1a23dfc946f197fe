"""What the process does when it is asked to read its files again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from plexus_registry.app import reload_files
from plexus_registry.server.listener import Certificate
from tests.fakes import entry, opened

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_certificate_is_read_again_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(Certificate, "__init__", lambda _: None)
    monkeypatch.setattr(Certificate, "reload", lambda _: threads.append(threading.get_ident()))
    async with opened(tmp_path) as registry:
        (tmp_path / "backends.toml").write_text(entry("stated"))
        await reload_files(registry, Certificate())  # type: ignore[call-arg]  # no files
        assert registry.get("stated") is not None
    assert len(threads) == 1
    assert threads != [threading.get_ident()]
