"""The verbs that ask one question: what people read, what programs read, and exit statuses."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
import trio

from tests.cli.running import run, succeed
from tests.e2e.harness import running_registry

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "a\x1b[31mred\x07\r\nnext\u202eback\x9b2J\u200b"
HOSTILE_SHOWN = r"a\x1b[31mred\x07\r\nnext\u202eback\x9b2J\u200b"


async def test_a_backend_is_registered_shown_changed_and_deleted(url: str) -> None:
    done = await succeed(url, "register", "hub", "127.0.0.1", "5001", "--description", "My hub")
    assert done.out == "Registered hub at ws://127.0.0.1:5001\n"
    done = await succeed(url, "get", "hub")
    shown = dict(line.split(maxsplit=1) for line in done.lines)
    assert shown["name"] == "hub"
    assert shown["url"] == "ws://127.0.0.1:5001"
    assert shown["state"] == "active"
    assert shown["seen"] == "never"
    assert shown["source"] == "manual"
    assert shown["description"] == "My hub"
    assert "namespace" not in shown
    done = await succeed(url, "update", "hub", "--port=5002", "--protocol=wss", "--description=")
    assert done.out == "Updated hub at wss://127.0.0.1:5002\n"
    assert "My hub" not in (await succeed(url, "get", "hub")).out
    done = await succeed(url, "delete", "hub")
    assert done.out == "Deleted hub\n"
    assert "there is no backend hub" in (await run(url, "get", "hub")).failed(1)


async def test_the_table_is_aligned_and_plain_in_a_pipe(url: str) -> None:
    await succeed(url, "register", "table-a", "127.0.0.1", "1", "--description", "it is A")
    await succeed(url, "register", "table-long", "::1", "2", "--protocol", "wss")
    await succeed(url, "ping", "table-a")
    await succeed(url, "deregister", "table-a")
    done = await succeed(url, "list", "--all")
    assert "\x1b" not in done.out
    head, *rows = [line for line in done.lines if line.startswith(("NAME", "table-"))]
    assert head.split() == [
        *("NAME", "URL", "STATE", "SINCE", "LATENCY", "SEEN", "SOURCE", "DESCRIPTION"),
    ]
    first = next(row for row in rows if row.startswith("table-a"))
    second = next(row for row in rows if row.startswith("table-long"))
    for column, text in (("URL", "ws://127.0.0.1:1"), ("STATE", "deregistered")):
        assert first[head.index(column) :].startswith(text)
    assert first[head.index("SEEN") :].split("  ")[0].endswith((" now", " ago"))
    assert first.endswith("it is A")
    for column, text in (("URL", "wss://[::1]:2"), ("STATE", "active"), ("SEEN", "never")):
        assert second[head.index(column) :].startswith(text)
    assert "table-a" not in (await succeed(url, "list")).out


async def test_a_check_tells_the_steps_and_what_failed(url: str) -> None:
    port = url.rpartition(":")[2]
    await succeed(url, "register", "registry-hub", "127.0.0.1", port)
    done = await succeed(url, "check", "registry-hub")
    steps = [line.split()[:2] for line in done.lines[:-1]]
    assert steps == [["ok", step] for step in ("resolve", "connect", "upgrade", "_info", "name")]
    assert done.lines[-1] == f"registry-hub at ws://127.0.0.1:{port} is there"
    await succeed(url, "register", "misnamed", "127.0.0.1", port)
    failed = await run(url, "check", "misnamed")
    assert failed.lines[-1].split()[:2] == ["failed", "name"]
    assert 'it answers as "registry-hub", not as "misnamed"' in failed.err
    assert failed.status == 1
    assert (await run(url, "check", "misnamed", "--json")).document["ok"] is False
    assert "Backend not found" in (await run(url, "check", "nobody")).failed(1)


async def test_programs_read_what_the_registry_answers(url: str) -> None:
    done = await succeed(url, "register", "json", "h", "5", "--namespace", "n", "--json")
    assert done.document["type"] == "backend_registered"
    backend = done.document["backend"]
    assert isinstance(backend, dict)
    assert backend["namespace"] == "n"
    assert (await succeed(url, "get", "json", "--json")).document["backend"] == backend
    listed = (await succeed(url, "list", "--json")).document
    assert listed["type"] == "backends"
    backends = listed["backends"]
    assert isinstance(backends, list)
    assert backend in backends
    for arguments, kind in (
        (("update", "json", "--port", "6"), "backend_updated"),
        (("ping", "json"), "ping"),
        (("deregister", "json"), "backend_deregistered"),
        (("delete", "json"), "backend_deleted"),
        (("reload",), "reloaded"),
    ):
        assert (await succeed(url, *arguments, "--json")).document["type"] == kind


async def test_the_answer_no_is_exit_status_1_and_says_what_to_do(url: str) -> None:
    await succeed(url, "register", "held", "h", "1")
    for arguments, said in (
        (("get", "nobody"), "there is no backend nobody; trio-registry list --all shows"),
        (("update", "nobody", "--port=1"), "nobody; trio-registry list --all shows"),
        (("delete", "nobody"), "nobody; trio-registry list --all shows"),
        (("deregister", "nobody"), "nobody; trio-registry list --all shows"),
        (("ping", "nobody"), "there is no backend nobody; register it first"),
        (("register", "held", "h", "2"), "held is taken by a live backend at ws://h:1: "),
        (("register", "held", "h", "2"), "or take the name with --replace"),
    ):
        assert said in (await run(url, *arguments)).failed(1)
    await succeed(url, "register", "held", "h", "2", "--replace")
    # A program has the answer, too, where there is one.
    done = await run(url, "get", "nobody", "--json")
    assert done.status == 1
    assert done.document == {"type": "backend", "backend": None}


async def test_a_wrong_command_line_is_exit_status_2(url: str) -> None:
    assert 'name is "a b": it must be' in (await run(url, "register", "a b", "h", "1")).failed(2)
    assert "no WebSocket URL" in (await run(url, "list", "--url=http://h")).failed(2)
    for arguments, said in (
        (("register", "a", "h", "0"), "0 is not in the range 1<=x<=65535"),
        (("register", "a", "h"), "Missing argument 'PORT'"),
        (("update", "a"), "give at least one of --host, --port"),
        (("list", "--timeout=0"), "above 0"),
        (("list", "more"), "unexpected extra argument"),
        (("list", "--token=secret"), "No such option"),
        (("export", "--db-path=x", f"--url={url}"), "not both"),
        (("lits",), "No such verb 'lits': did you mean list?"),
        (("xyz\x1b[2J",), r"No such verb 'xyz\x1b[2J': there are serve, list, "),
    ):
        done = await run(url, *arguments)
        assert (done.status, done.out) == (2, "")
        assert said in done.err


async def test_no_backends_are_no_error(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register") as server:
            done = await run(server.url, "list")
            assert (done.status, done.out) == (0, "")
            assert done.err == "No backends; --all shows inactive ones, too.\n"
            assert (await run(server.url, "list", "--all")).err == "No backends.\n"
            document = (await succeed(server.url, "list", "--json")).document
    assert document["backends"] == []


async def test_what_others_wrote_steers_no_terminal(url: str) -> None:
    await succeed(url, "register", "hostile", "h", "1", f"--description={HOSTILE}")
    for verb in (("list",), ("get", "hostile"), ("list", "--json"), ("get", "hostile", "--json")):
        done = await succeed(url, *verb)
        assert all(line.isprintable() for line in done.lines)
        if "--json" not in verb:
            assert HOSTILE_SHOWN in done.out
    backend = (await succeed(url, "get", "hostile", "--json")).document["backend"]
    assert isinstance(backend, dict)
    assert backend["description"] == HOSTILE
    assert r"no\x1b[2J" in (await run(url, "get", "no\x1b[2J")).failed(1)


async def test_reload_says_what_changed_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "backends.toml"
    options = ("--no-auto-register", "--poll-interval=1000")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options) as server:
            path.write_text('[[backend]]\nname = "filed"\nhost = "h"\nport = 1\n')
            done = await succeed(server.url, "reload")
            assert done.out == "The config file states 1 backend: added filed\n"
            done = await succeed(server.url, "reload")
            assert done.out == "The config file states 1 backend: nothing changed\n"
            path.write_text("[[backend]]\nname = 1\n")
            assert f"{path}, line " in (await run(server.url, "reload")).failed(1)
            assert "filed" in (await succeed(server.url, "list")).out


async def test_export_asks_the_registry_that_runs(url: str, tmp_path: Path) -> None:
    await succeed(url, "register", "exported", "h", "7", "--protocol=wss", "--namespace=n")
    await succeed(url, "deregister", "exported")
    text = (await succeed(url, "export")).out
    (entry,) = (each for each in tomllib.loads(text)["backend"] if each["name"] == "exported")
    assert entry == {
        "name": "exported",
        "host": "h",
        "port": 7,
        "protocol": "wss",
        "namespace": "n",
    }
    target = tmp_path / "b.toml"
    assert (await succeed(url, "export", "-o", str(target))).out == ""
    assert "exported" in target.read_text()
    assert "was left as it is" in (await run(url, "export", "-o", str(target))).failed(1)


@pytest.mark.parametrize("way", ["--url", "environment"])
async def test_the_url_may_be_said_either_way(url: str, way: str) -> None:
    nowhere = "ws://127.0.0.1:1"
    if way == "--url":
        done = await run(nowhere, "list", "--all", "--url", url)
    else:
        done = await run(url, "list", "--all")
    assert done.status == 0
