"""What a verb loads: the time that it takes to start is the time to load that."""

from __future__ import annotations

import json
import re
import sys

import pytest
import trio

from plexus_registry.cli import VERBS
from tests.e2e.harness import clean_environment

# All that a verb may load of the package: the rest is the server's. Settings are plain values.
CLIENT = re.compile(
    r"plexus_registry(\.(__main__|settings|concurrency|websocket_frames|rules|config|cli(\.\w+)?"
    r"|client(\.\w+)?|rules\.(backend|errors|events|merge|methods|parameters|states)"
    r"|config\.(declarations|file)|server|server\.access_policy))?"
)
# Each takes long, and none is needed by a client.
FOREIGN = {
    *("trio_websocket", "wsproto", "h11", "sqlite_utils", "sqlite3", "tabulate", "asyncio"),
    "importlib.metadata",
}
REPORT = """
import json, sys
from plexus_registry.cli import main
try:
    main(sys.argv[1:], prog_name="trio-registry")
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)
"""


async def loaded(*arguments: str, **env: str) -> tuple[int, set[str]]:
    """Run `trio-registry`, and tell its exit status and all that was loaded by then."""
    with trio.fail_after(30):
        done = await trio.run_process(
            [sys.executable, "-c", REPORT, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean_environment(**env),
        )
    status, modules = json.loads(done.stderr.decode().splitlines()[-1])
    return status, set(modules)


def of_server(modules: set[str]) -> set[str]:
    ours = {name for name in modules if name.split(".")[0] == "plexus_registry"}
    return {name for name in ours if not CLIENT.fullmatch(name)} | (modules & FOREIGN)


def test_what_belongs_to_the_server_is_known() -> None:
    server = {"plexus_registry.app", "plexus_registry.rules.catalog", "sqlite3"}
    assert of_server(server | {"plexus_registry.client.exchange", "json"}) == server


async def test_client_verbs_load_nothing_of_the_server(url: str) -> None:
    for arguments in (
        ("register", "n", "h", "1"),
        ("list",),
        ("list", "--json"),
        ("get", "n"),
        ("ping", "n"),
        ("export",),
        ("announce", "--name=m", "--port=1", "--", "true"),
    ):
        status, modules = await loaded(*arguments, REGISTRY_URL=url)
        assert status == 0
        assert "plexus_registry.client.connection" in modules
        assert of_server(modules) == set()


async def test_a_watch_loads_nothing_of_the_server_either() -> None:
    status, modules = await loaded("watch", "--url=ws://127.0.0.1:1")
    assert status == 3
    assert of_server(modules) == set()


@pytest.mark.parametrize("verb", [None, *VERBS])
async def test_help_loads_neither_trio_nor_sqlite(verb: str | None) -> None:
    status, modules = await loaded(*(() if verb is None else (verb,)), "--help")
    assert status == 0
    assert modules & {"trio", "plexus_registry.client.connection"} == of_server(modules) == set()
    if verb is None:
        assert "msgspec" not in modules
        assert not any(f"plexus_registry.cli.{each.module}" in modules for each in VERBS.values())


@pytest.mark.parametrize("words", ["trio-registry ", "trio-registry --", "trio-registry list --"])
async def test_completion_loads_neither_trio_nor_sqlite(words: str) -> None:
    env = {
        "_TRIO_REGISTRY_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    status, modules = await loaded(**env)
    assert status == 0
    assert modules & {"trio", "plexus_registry.client.connection"} == of_server(modules) == set()
