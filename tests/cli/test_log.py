"""`trio-registry log`: who changed what, as people and programs read it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import trio

from tests.cli.running import Lines, run, running, succeed
from tests.e2e.harness import running_registry

if TYPE_CHECKING:
    from pathlib import Path

LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) +(\d+)  (.*)")


async def test_each_change_is_a_line_with_who_made_it(tmp_path: Path) -> None:
    async with running_registry(tmp_path, "--no-auto-register") as server:
        url = server.url
        await succeed(url, "register", "hub2", "127.0.0.1", "5001")
        await succeed(url, "update", "hub2", "--port=5002")
        await succeed(url, "register", "other", "127.0.0.1", "1")
        found = [LINE.fullmatch(line) for line in (await succeed(url, "log")).lines]
        lines = [each.groups() for each in found if each]
        assert [line[1] for line in lines] == ["1", "2", "3"]
        words = re.sub(r"127.0.0.1:\d+\)", "PEER)", lines[1][2])
        assert words == "hub2: port 5001 -> 5002 (registry.update from PEER)"
        assert lines[1][2] in server.log, "the log has the same words"
        assert len((await succeed(url, "log", "hub2")).lines) == 2
        assert len((await succeed(url, "log", "-n", "1")).lines) == 1
        assert (await succeed(url, "log", "-n", "0")).out == ""
        for since, count in (("1", 2), ("1h", 3), (lines[0][0], 3), ("2999-01-01", 0)):
            done = await succeed(url, "log", "--since", str(since))
            assert len(done.lines) == count, since
        document = (await succeed(url, "log", "other", "--json")).document
        assert (document["type"], document["before"]) == ("backend_registered", None)
        assert "no time ago" in (await run(url, "log", "--since", "soon")).err


async def test_it_follows(tmp_path: Path) -> None:
    log = tmp_path / "followed"
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            await succeed(server.url, "register", "a", "127.0.0.1", "1")
            async with running(server.url, log, "log", "--follow", "--json") as process:
                lines = Lines(process)
                assert json.loads(await lines.next())["type"] == "backend_registered"
                await succeed(server.url, "delete", "a")
                assert json.loads(await lines.next())["type"] == "backend_deleted"
