"""An invalid config file is said once, with line and field, and the last good entries stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.harness import (
    dial,
    eventually,
    running_registry,
    shared_registry,
)
from tests.e2e.test_config_file import NO_HUB, POLL, Config, entry, lists, watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG_INVALID = -32003
KEPT_OUT = "config file kept out"
GOOD = entry("a")

INVALID = {
    "syntax": (GOOD + "[[backend]\nname = 1\n", 5, ["']]'"]),
    "unclosed": (GOOD + '[[backend]]\nname = "b\n', 6, []),
    "port": (GOOD + entry("b", 70000), 8, ["port", "70000", "65535"]),
    "name": (GOOD + entry("b/c"), 6, ["name", "b/c"]),
    "host": (GOOD + '[[backend]]\nname="b"\nport=1\nhost="ws://h"\n', 8, ["host", "ws://h"]),
    "protocol": (GOOD + entry("b", protocol='"http"'), 9, ["protocol", "http"]),
    "missing": (GOOD + '[[backend]]\nname = "b"\nport = 1\n', 5, ["host", "missing"]),
    "type": (GOOD + entry("b", description="[1]"), 9, ["description", "[1]"]),
    "duplicate": (GOOD + entry("b") + entry("a"), 10, ["name", '"a"', "twice", "line 1"]),
    "single brackets": ('[backend]\nname = "b"\n', 1, ["[[backend]]"]),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL and the folder of one registry that sees one invalid file after the other."""
    folder = tmp_path_factory.mktemp("server")
    with shared_registry(folder, NO_HUB, POLL) as url:
        yield url, folder


def told_in(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if KEPT_OUT in line]


@pytest.mark.parametrize(("text", "line", "said"), INVALID.values(), ids=INVALID)
async def test_an_invalid_file_is_said_once_and_changes_nothing(
    shared: tuple[str, Path], text: str, line: int, said: list[str]
) -> None:
    url, folder = shared
    config, log = Config(folder), folder / "server.log"
    with trio.fail_after(30):
        async with dial(url) as peer:
            config.replace(GOOD)
            await lists(peer, "a")
            before = await peer.backends()
            told_before = len(told_in(log))
            config.replace(text)
            await eventually(lambda: len(told_in(log)) > told_before)

            async def is_unchanged() -> bool:
                return await peer.backends() == before

            error = await peer.error("registry.reload")
            assert await is_unchanged()
            config.replace(GOOD, entry("mended"))
            await lists(peer, "a", "mended")
        (told,) = told_in(log)[told_before:]
        assert f"{config.path}, line {line}:" in told
        assert [word for word in said if word not in told] == []
        check_config_error(error, config, line, said)


def check_config_error(
    error: dict[str, object], config: Config, line: int, said: list[str]
) -> None:
    assert error["code"] == CONFIG_INVALID
    data = error["data"]
    assert isinstance(data, dict)
    assert (data["code"], data["path"], data["line"]) == ("config_invalid", str(config.path), line)
    assert [word for word in said if word not in data["reason"]] == []


async def test_the_last_good_entries_survive_a_restart(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, GOOD, entry("b")) as (server, peer, config):
            await peer.call("registry.delete", name="b")
            before = await peer.backends()
            config.write(entry("a", 2), "port = nonsense")
            await eventually(lambda: KEPT_OUT in server.log)
            await server.kill()
        async with running_registry(tmp_path, NO_HUB, POLL) as server, dial(server.url) as peer:
            assert await peer.backends() == before
            config.write(entry("a", 2), entry("b", 2))

            async def is_mended() -> bool:
                backend = await peer.get("a")
                return backend is not None and backend["port"] == 2

            await eventually(is_mended)
            assert await peer.names() == ["a"]
            assert server.log.count(KEPT_OUT) == 2, "each run says it once, at its start"


async def test_another_invalid_content_is_said_again(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, GOOD) as (server, _, config):
            config.write(entry("a", 70000))
            await eventually(lambda: "70000" in server.log)
            config.write(entry("a", 70001))
            await eventually(lambda: "70001" in server.log)
            assert server.log.count(KEPT_OUT) == 2


async def test_unknown_keys_are_a_warning(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with watched(tmp_path, entry("a", prot='"ws"'), "[more]\n") as (server, peer, _):
            assert await peer.names() == ["a"]
            warnings = [each for each in server.log.splitlines() if " WARNING " in each]
        assert len(warnings) == 2
        assert "line 5: backend 1: unknown key" in warnings[1]
        assert '"prot"' in warnings[1]
        assert '"more"' in warnings[0]
