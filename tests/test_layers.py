"""The shape of the package: which room may import which, and what stays out of the pure modules.

A room is a folder, or one of the few modules at the top. A new module in a room needs no new row.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import plexus_registry

PACKAGE = "plexus_registry"
ROOT = Path(plexus_registry.__file__).parent
ALL = "*"


@dataclass(frozen=True)
class Room:
    """What a room may import of ours, and which of its modules are pure."""

    imports: str = ""
    pure: str = ""


# Imports point down the list only.
ROOMS: dict[str, Room] = {
    "__main__": Room("cli"),
    "cli": Room("app server client rpc health config storage settings concurrency rules"),
    "": Room("app client registry rules settings"),
    "app": Room("server tasks rpc registry health config storage settings concurrency rules"),
    "server": Room(
        "rpc registry health config storage settings concurrency websocket_frames measures rules",
        pure="access_policy http",
    ),
    "tasks": Room("registry health config storage concurrency rules"),
    "client": Room("concurrency websocket_frames rules"),
    "rpc": Room(
        "registry settings websocket_frames measures rules",
        pure="jsonrpc plexus schema streams subscriptions",
    ),
    "registry": Room("health config storage concurrency rules"),
    "health": Room(
        "config storage concurrency websocket_frames measures rules",
        pure="evidence probe_protocol tracker",
    ),
    "config": Room("concurrency rules", pure="declarations"),
    "storage": Room("concurrency measures rules"),
    "concurrency": Room("rules"),
    "websocket_frames": Room("rules", pure=ALL),
    "measures": Room(pure=ALL),
    "settings": Room("rules"),
    "rules": Room(pure=ALL),
}
# Pure: it waits for nothing, reads no clock, draws no number, logs nothing, touches no file and
# no socket.
PURE_LIBRARIES = {
    *(
        "__future__",
        "binascii",
        "bisect",
        "codecs",
        "collections",
        "collections.abc",
        "dataclasses",
    ),
    *("difflib", "enum", "functools", "hashlib", "heapq", "hmac", "http", "ipaddress"),
    *("itertools", "json", "math", "msgspec", "re", "tomllib", "typing", "urllib.parse"),
}
PURE_LIBRARIES_OF = {
    "config.declarations": {"tomli_w"},
    "server.http": {"email.utils", "h11"},
}
LIBRARY_ROOMS: dict[str, set[str]] = {
    "sqlite_utils": {"storage"},
    "sqlite3": {"storage"},
    "click": {"cli"},
    "wsproto": set(),
    "h11": {"server"},
    "trio_websocket": {"server"},
    "prometheus_client": {"server"},
}


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module, by its name below the package."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(module: str) -> set[str]:
    """Whatever a module imports, for types too, by the full name of the imported module."""
    names: set[str] = set()
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix(f"{PACKAGE}.") in trees()
                names.add(full if is_module and full.startswith(PACKAGE) else node.module)
    return names


def ours(module: str) -> set[str]:
    """The modules of the package that a module imports; the package itself is left out."""
    prefix = f"{PACKAGE}."
    return {n.removeprefix(prefix) for n in imported(module) if n.startswith(prefix)}


def libraries(module: str) -> set[str]:
    return {name for name in imported(module) if name.partition(".")[0] != PACKAGE}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def is_pure(module: str) -> bool:
    room, _, name = module.partition(".")
    return ROOMS[room].pure == ALL or name in ROOMS[room].pure.split()


MODULES = pytest.mark.parametrize("module", sorted(trees()), ids=lambda each: each or PACKAGE)
PURE_MODULES = pytest.mark.parametrize("module", sorted(filter(is_pure, trees())))


def test_every_room_has_its_row_and_every_pure_module_exists() -> None:
    assert {room_of(module) for module in trees()} == ROOMS.keys()
    for name, room in ROOMS.items():
        if room.pure != ALL:
            assert {f"{name}.{each}" for each in room.pure.split()} <= trees().keys()


def test_the_rows_point_down() -> None:
    order = [*ROOMS]
    for name, room in ROOMS.items():
        for each in room.imports.split():
            assert order.index(each) > order.index(name), f"{name} imports {each}"


@MODULES
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    may = {room, *ROOMS[room].imports.split()}
    odd = {each for each in ours(module) if room_of(each) not in may}
    assert odd == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: ours(module) - {""} for module in trees()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@PURE_MODULES
def test_a_pure_module_uses_only_pure_modules_and_libraries(module: str) -> None:
    allowed = PURE_LIBRARIES | PURE_LIBRARIES_OF.get(module, set())
    assert libraries(module) - allowed == set()
    assert [each for each in ours(module) if not is_pure(each)] == []


@PURE_MODULES
def test_a_pure_module_neither_waits_nor_does_input_or_output(module: str) -> None:
    waits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    for node in ast.walk(trees()[module]):
        assert not isinstance(node, waits), f"{module}, {ast.unparse(node)}"
        if isinstance(node, ast.Name):
            assert node.id not in {"open", "print", "input", "exec", "eval", "__import__"}


@pytest.mark.parametrize("library", LIBRARY_ROOMS)
def test_a_library_of_the_edge_stays_in_its_room(library: str) -> None:
    users = {
        room_of(module)
        for module in trees()
        if any(name.partition(".")[0] == library for name in libraries(module))
    }
    assert users - LIBRARY_ROOMS[library] == set()


HEAVY = ("trio", "trio_websocket", "sqlite_utils")
STATEMENTS = {
    "import": "import plexus_registry",
    "version": "import plexus_registry; plexus_registry.__version__",
    "help": "from plexus_registry.cli import main; main(['--help'], standalone_mode=False)",
    "help of serve": (
        "from plexus_registry.cli import main; main(['serve', '--help'], standalone_mode=False)"
    ),
    "rules": "import plexus_registry.rules.catalog, plexus_registry.rpc.plexus",
}


@pytest.mark.parametrize("what", STATEMENTS)
def test_what_needs_no_trio_and_no_sqlite_loads_neither(what: str) -> None:
    report = (
        f"import json, sys; print('\\n' + json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    script = f"{STATEMENTS[what]}\n{report}"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert json.loads(result.stdout.splitlines()[-1]) == []


def test_every_public_name_is_there() -> None:
    for name in plexus_registry.__all__:
        assert getattr(plexus_registry, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = plexus_registry.missing
