"""The shape of the package: who may import whom, and what stays out of the core.

Source: style, section 2. A new module takes its line here.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import plexus_registry

PACKAGE = "plexus_registry"
ROOT = Path(plexus_registry.__file__).parent

# Module: what it may import of ours. Imports point down the list only.
MAY_IMPORT: dict[str, str] = {
    "__main__": "cli",
    "cli": "_version cli.display core.methods",
    "cli.serve": (
        "app cli.display cli.door_options cli.log_lines cli.probe_options cli.values settings"
        " core.errors core.limits core.methods core.model"
    ),
    "cli.probe_options": "cli.values core.errors core.networks",
    "cli.door_options": "cli.values settings token_file core.errors core.gate",
    "cli.config_files": (
        "cli.calls cli.display cli.session config_file settings store core.errors core.export"
        " core.merge core.model"
    ),
    "cli.completion": "",
    "cli.verbs": "cli.calls cli.display cli.session",
    "cli.watch": "cli.calls cli.display cli.session client.connection core.errors",
    "cli.announce": "cli.session cli.supervision cli.values client.socket core.errors core.model",
    "cli.supervision": "cli.log_lines client.announcement",
    "cli.calls": (
        "cli.session cli.values client.connection client.socket core.errors core.model core.reports"
    ),
    "cli.session": "cli.display cli.values client token_file core.errors",
    "cli.values": "",
    "cli.log_lines": "cli.display",
    "cli.display": "core.events core.model core.reports",
    "": (
        "_version app client.announcement client.connection client.discovery client.events"
        " client.keeper service settings core.commands core.errors core.events core.model"
    ),
    "client.announcement": "client.groups client.keeper client.socket",
    "client.keeper": "client.connection client.socket core.errors",
    "client.discovery": "client.connection client.socket core.errors core.model",
    "client.connection": (
        "client client.events client.exchange client.replies client.socket core.model"
    ),
    "client.exchange": (
        "client.events client.feed client.groups client.replies client.socket core.errors"
    ),
    "client.groups": "",
    "client.feed": "client.events core.errors core.events",
    "client.replies": "core.errors core.model core.reports",
    "client.events": "core.errors core.events",
    "client.socket": "client core.errors",
    "client": "",
    "app": (
        "_version blocking config_file config_watch conversation drain network probe prober service"
        " settings store sweeper token_file door.acceptor door.front_door door.making door.tls"
        " core.declarations core.errors core.feed core.local_hub core.model core.networks"
        " core.plexus core.vitals"
    ),
    "door.making": (
        "drain fairness health_report service settings door.acceptor door.complaints door.keeper"
        " door.pages door.reception door.tls core.crowd core.gate"
    ),
    "conversation": ("drain fairness rpc service teller wire core.errors core.plexus core.session"),
    "teller": "bell rpc service wire",
    "door.front_door": (
        "wire door.acceptor door.complaints door.heads door.reception core.gate core.visitor"
    ),
    "health_report": "_version config_file group_commit service core.model",
    "door": "",
    "door.reception": (
        "drain fairness wire door.complaints door.heads door.keeper door.pages door.tls core.crowd"
        " core.gate"
    ),
    "door.acceptor": "core.errors core.gate",
    "door.keeper": "door.complaints wire",
    "door.complaints": "",
    "door.pages": "door.heads core.errors core.gate",
    "door.heads": "core.errors core.gate",
    "door.tls": "core.errors",
    "token_file": "core.errors",
    "rpc": (
        "dispatch fairness service core.commands core.errors core.events core.feed core.items"
        " core.jsonrpc core.methods core.plexus core.routes core.session core.speaker core.visitor"
    ),
    "dispatch": "service core.commands core.events core.routes",
    "config_watch": "config_file service core.errors core.model",
    "sweeper": "service trouble core.errors",
    "prober": "network service trouble volley core.errors core.model core.reports core.schedule",
    "volley": "network core.dialogue core.reports",
    "trouble": "core.errors",
    "service": (
        "bell config_file group_commit health_keeper probe store core.catalog core.claims"
        " core.commands core.declarations core.draft core.errors core.events core.feed core.health"
        " core.merge core.model core.reconciliation core.vitals"
    ),
    "probe": "network core.dialogue core.errors core.model core.networks core.reports",
    "network": "",
    "health_keeper": (
        "group_commit core.catalog core.claims core.declarations core.draft core.errors core.health"
        " core.local_hub core.merge core.model core.reports core.vitals"
    ),
    "group_commit": "store core.catalog core.claims core.draft core.errors core.feed",
    "config_file": "blocking core.declarations core.errors",
    "store": (
        "blocking database_file lock_file migrations rows core.claims core.errors core.events"
        " core.feed core.model"
    ),
    "rows": "migrations core.events core.feed core.health core.model",
    "database_file": "migrations core.errors",
    "migrations": "core.model",
    "lock_file": "core.errors",
    "wire": "fairness core.visitor",
    "fairness": "",
    "drain": "",
    "bell": "",
    "blocking": "",
    "settings": "core.limits",
    "core": "",
    "core.plexus": (
        "_version core.call_parameters core.commands core.errors core.events core.items"
        " core.json_schema core.limits core.methods core.routes core.schema core.speaker"
    ),
    "core.speaker": "core.commands core.items core.routes",
    "core.crowd": "core.gate",
    "core.gate": "core.errors",
    "core.call_parameters": "core.commands core.errors core.items core.methods",
    "core.schema": "core.json_schema core.methods",
    "core.json_schema": "core.commands core.events core.model core.reports",
    "core.session": "core.errors core.feed core.items core.routes",
    "core.routes": "core.commands core.items",
    "core.items": "core.events",
    "core.jsonrpc": "core.errors core.events",
    "core.methods": "core.commands core.errors",
    "core.local_hub": (
        "core.catalog core.claims core.declarations core.draft core.merge core.model"
        " core.reconciliation core.reports"
    ),
    "core.reconciliation": "core.claims core.declarations core.draft core.events core.model",
    "core.draft": "core.catalog core.claims core.events core.feed core.merge core.model",
    "core.feed": "core.catalog core.commands core.errors core.events core.model",
    "core.catalog": "core.claims core.events core.merge core.model",
    "core.events": "core.errors core.model core.reports",
    "core.claims": "core.commands core.errors core.health core.merge core.model",
    "core.export": "core.errors core.model",
    "core.declarations": "core.errors core.model core.toml_lines",
    "core.toml_lines": "",
    "core.commands": "core.errors core.model",
    "core.merge": "core.model",
    "core.vitals": "core.health core.model core.probes core.reports core.silence core.suspicion",
    "core.probes": "core.damping core.health core.model core.reports",
    "core.health": "core.model",
    "core.dialogue": "core.errors core.model core.reports",
    "core.reports": "core.errors core.model",
    "core.networks": "core.errors",
    "core.schedule": "",
    "core.damping": "",
    "core.suspicion": "",
    "core.silence": "core.model",
    "core.model": "",
    "core.errors": "",
    "_version": "",
    "core.limits": "",
    "core.visitor": "",
}
# Pure: nothing here waits, reads a clock, draws a number, logs or touches a file or a socket.
CORE_MAY_USE = {
    *("__future__", "binascii", "bisect", "collections", "collections.abc", "dataclasses"),
    *("difflib", "enum", "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools"),
    *("json", "math", "msgspec", "re", "tomllib", "typing", "urllib.parse"),
}
CORE_MAY_USE_MORE = {"core.export": {"tomli_w"}}
MAY_USE_TRIO = {
    *("cli.calls", "cli.supervision", "cli.watch"),
    *("client.announcement", "client.discovery", "client.exchange", "client.feed"),
    *("client.groups", "client.keeper", "client.socket"),
    *("app", "bell", "blocking", "cli.serve", "config_file", "config_watch", "conversation"),
    *("door.acceptor", "door.complaints", "door.keeper", "door.reception", "door.tls"),
    *(
        "door.front_door",
        "drain",
        "fairness",
        "group_commit",
        "health_keeper",
        "health_report",
        "network",
        "probe",
        "prober",
    ),
    *("service", "store", "sweeper", "teller", "volley", "wire"),
}
EDGE_LIBRARIES = {
    "sqlite_utils": {"store", "migrations"},
    "sqlite3": {"database_file", "store"},
    "click": {
        *("cli", "cli.announce", "cli.completion", "cli.config_files", "cli.display"),
        *("cli.door_options", "cli.probe_options", "cli.serve", "cli.session", "cli.values"),
        *("cli.verbs", "cli.watch"),
    },
    "trio": MAY_USE_TRIO,
    "wsproto": {"client.socket"},
    "h11": {"door.heads"},
    "trio_websocket": {"conversation", "door.front_door", "door.keeper", "teller", "wire"},
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
    prefix = f"{PACKAGE}."
    return {n.removeprefix(prefix) for n in imported(module) if n.startswith(prefix)}


def libraries(module: str) -> set[str]:
    return {name for name in imported(module) if name.partition(".")[0] != PACKAGE}


def test_every_module_has_its_line() -> None:
    assert trees().keys() == MAY_IMPORT.keys()


def test_the_table_points_down() -> None:
    order = [*MAY_IMPORT]
    for module, allowed in MAY_IMPORT.items():
        for each in allowed.split():
            assert order.index(each) > order.index(module), f"{module} imports {each}"


@pytest.mark.parametrize("module", MAY_IMPORT, ids=lambda module: module or PACKAGE)
def test_a_module_imports_only_what_it_may(module: str) -> None:
    assert ours(module) - set(MAY_IMPORT[module].split()) == set()


core_modules = pytest.mark.parametrize(
    "module", [name for name in MAY_IMPORT if name.partition(".")[0] == "core"]
)


@core_modules
def test_the_core_uses_only_pure_libraries(module: str) -> None:
    allowed = CORE_MAY_USE | CORE_MAY_USE_MORE.get(module, set())
    assert libraries(module) - allowed == set()


@core_modules
def test_the_core_neither_waits_nor_does_input_or_output(module: str) -> None:
    waits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    for node in ast.walk(trees()[module]):
        assert not isinstance(node, waits), f"{module}, {ast.unparse(node)}"
        if isinstance(node, ast.Name):
            assert node.id not in {"open", "print", "input", "exec", "eval", "__import__"}


@pytest.mark.parametrize("library", EDGE_LIBRARIES)
def test_a_library_of_the_edge_stays_where_it_belongs(library: str) -> None:
    users = {
        module
        for module in trees()
        if any(name.partition(".")[0] == library for name in libraries(module))
    }
    assert users - EDGE_LIBRARIES[library] == set()


HEAVY = ("trio", "trio_websocket", "sqlite_utils")
STATEMENTS = {
    "import": "import plexus_registry",
    "version": "import plexus_registry; plexus_registry.__version__",
    "help": "from plexus_registry.cli import main; main(['--help'], standalone_mode=False)",
    "help of serve": (
        "from plexus_registry.cli import main; main(['serve', '--help'], standalone_mode=False)"
    ),
    "core": "import plexus_registry.core.catalog, plexus_registry.core.plexus",
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
