"""`trio-registry export` and `trio-registry init`."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import trio

from plexus_registry.config.declarations import parse_toml
from plexus_registry.settings import Settings
from tests.e2e.harness import dial, run_command, running_registry, writing_at_most
from tests.fields import IN_FILE

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_what_is_exported_beside_a_running_registry_makes_the_same_backends(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first?#% é", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    description = 'says "hi" # not a comment\n[[backend]]\u202e'
    with trio.fail_after(40):
        async with running_registry(first, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="a", host="::1", port=1, protocol="wss")
                await peer.call(
                    "registry.register",
                    name="b",
                    host="h",
                    port=2,
                    description=description,
                    namespace="n",
                )
                await peer.call("registry.register", name="gone", host="h", port=3)
                await peer.call("registry.delete", name="gone")
                shown = [await peer.call("registry.get", name=name) for name in ("a", "b")]
            exported = await run_command(
                "export",
                f"--db-path={first / 'registry.db'}",
                f"--output={second / 'backends.toml'}",
            )
            assert exported.returncode == 0, exported.stderr
        async with running_registry(second, "--no-auto-register") as server:
            async with dial(server.url) as peer:
                assert await peer.names() == ["a", "b"]
                again = [await peer.call("registry.get", name=name) for name in ("a", "b")]
    for before, after in zip(shown, again, strict=True):
        old, new = before["backend"], after["backend"]
        assert isinstance(old, dict)
        assert isinstance(new, dict)
        assert {key: old.get(key) for key in IN_FILE} == {key: new.get(key) for key in IN_FILE}


async def test_export_prints_where_no_file_is_named_and_never_overwrites_one(
    tmp_path: Path,
) -> None:
    database = f"--db-path={tmp_path / 'registry.db'}"
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            assert await server.stop() == 0
        printed = await run_command("export", database)
        assert [each["name"] for each in tomllib.loads(printed.stdout.decode())["backend"]] == [
            "plexus"
        ]
        kept = tmp_path / "kept.toml"
        kept.write_text("mine")
        refused = await run_command("export", database, f"--output={kept}")
    assert refused.returncode == 1
    assert b"exists and was left as it is" in refused.stderr
    assert kept.read_text() == "mine"


async def test_export_of_what_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, just some text that is long enough")
    with trio.fail_after(20):
        for name in ("missing.db", "text.db"):
            done = await run_command("export", f"--db-path={tmp_path / name}")
            assert done.returncode == 1
            assert done.stderr.startswith(b"Error: cannot open database ")
            assert done.stderr.count(b"\n") == 1


async def test_init_writes_a_file_that_loads_and_never_overwrites(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = tmp_path / "plexus" / "backends.toml"
    with trio.fail_after(20):
        written = await run_command("init", env=home)
        assert written.returncode == 0
        assert str(path).encode() in written.stdout
        text = path.read_text()
        assert parse_toml(text, path="p").backends == {}
        entry = text[text.index("# [[backend]]") :].replace("# ", "", 1).replace("\n# ", "\n")
        assert list(parse_toml(entry, path="p").backends) == ["hub2"]
        path.write_text("mine")
        refused = await run_command("init", env=home)
        assert refused.returncode == 1
        assert b"exists and was left as it is" in refused.stderr
        assert path.read_text() == "mine"
        elsewhere = await run_command("init", str(tmp_path / "other" / "b.toml"))
        assert elsewhere.returncode == 0
        nowhere = await run_command("init", str(path / "b.toml"))
    assert nowhere.returncode == 1
    assert b"Traceback" not in nowhere.stderr


async def test_a_file_that_cannot_be_written_leaves_no_part_behind(tmp_path: Path) -> None:
    small = writing_at_most(100)
    path = tmp_path / "b.toml"
    with trio.fail_after(20):
        failed = await run_command("init", str(path), command=small)
        again = await run_command("init", str(path))
    assert failed.returncode == 1
    assert again.returncode == 0, again.stderr
    assert f"Error: cannot write {path}: File too large\n".encode() == failed.stderr


def test_the_default_paths_are_those_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert Settings().db_path == tmp_path / "xdg" / "plexus" / "registry.db"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().config_path == tmp_path / ".config" / "plexus" / "backends.toml"


def test_the_local_hub_is_stated_unless_the_registry_takes_its_place() -> None:
    assert Settings().states_local_hub
    assert not Settings(port=4444).states_local_hub
    assert not Settings(auto_register=False).states_local_hub


async def test_a_mistyped_verb_is_said_and_never_served(tmp_path: Path) -> None:
    with trio.fail_after(20):
        for wrong, said in (("exprot", b"did you mean export?"), ("xyz", b"there are serve, ")):
            done = await run_command(wrong, f"--db-path={tmp_path / 'registry.db'}")
            assert done.returncode == 2
            assert f"No such verb '{wrong}': ".encode() + said in done.stderr
    assert not (tmp_path / "registry.db").exists()


async def test_config_check_says_what_a_registry_would(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    good = '[[backend]]\nname = "a"\nhost = "h"\nport = 1\n'
    cases = {
        good: (0, "valid, 1 backend", ""),
        "": (0, "valid, 0 backends", ""),
        f'{good}prot = "wss"\n': (0, "valid, 1 backend", 'line 5: backend 1: unknown key "prot"'),
        f"{good}port = 2\n": (1, "", "line 5: Cannot overwrite"),
        good.replace("port", "prot"): (1, "", "line 1: backend 1: port is missing (is it what"),
        good.replace("backend", "backends"): (1, "", "line 1: unknown key"),
    }
    with trio.fail_after(60):
        for text, (status, printed, said) in cases.items():
            file.write_text(text)
            done = await run_command("config", "check", str(file))
            assert done.returncode == status, text
            assert printed in done.stdout.decode()
            assert said in done.stderr.decode()
            assert b"Traceback" not in done.stderr
        by_default = await run_command("config", "check", env={"REGISTRY_CONFIG": str(file)})
        assert b"did you mean [[backend]]?" in by_default.stderr
        missing = await run_command("config", "check", str(tmp_path / "missing"))
    assert missing.returncode == 1
    assert b"does not exist" in missing.stderr


async def test_a_config_file_that_was_named_and_does_not_exist_is_said_at_start(
    tmp_path: Path,
) -> None:
    with trio.fail_after(30):
        async with running_registry(tmp_path) as server:
            assert f"config file {tmp_path / 'backends.toml'} does not exist" in server.log
