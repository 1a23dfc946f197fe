"""A real registry on a real database and config file, held against the naive model.

After every step `get`, `list` (active, all) and the database must agree with the model. A kill
is what a crash leaves: the database and its write-ahead log as they are on the disk, opened by
the next registry, and the old one never heard of again.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import tomli_w
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plexus_registry.app import open_registry
from plexus_registry.rules.backend import Register, State, Update
from plexus_registry.rules.errors import ConfigInvalid, MethodError
from plexus_registry.rules.states import Answered, Unanswered
from plexus_registry.settings import Settings
from plexus_registry.storage.opening import read_records
from plexus_registry.tasks.periodic import sweep_once, watch_config_once
from tests.fields import CLEARED
from tests.machine.loop import Loop
from tests.machine.model import RANKED, Entry, Model, Refusal

if TYPE_CHECKING:
    from plexus_registry.registry import Registry
    from plexus_registry.rules.backend import Backend, Record
    from plexus_registry.rules.states import Outcome

STALE_AFTER = 60
ENVIRONMENT = "b=ws://env:7,e=wss://env:8"
STATED_BY_ENVIRONMENT: dict[str, Entry] = {
    "b": {"host": "env", "port": 7, "protocol": "ws", **dict.fromkeys(CLEARED)},
    "e": {"host": "env", "port": 8, "protocol": "wss", **dict.fromkeys(CLEARED)},
}
BUILT_IN: dict[str, Entry] = {
    "plexus": {
        "host": "127.0.0.1",
        "port": 4444,
        "protocol": "ws",
        **dict.fromkeys(CLEARED),
        "description": "The local Plexus hub",
    }
}

names = st.sampled_from(["a", "a", "b", "b", "c", "e", "plexus"])
hosts = st.sampled_from(["h1", "h2"])
ports = st.just(1)
protocols = st.sampled_from(["ws", "ws", "ws", "wss"])
texts = st.sampled_from([None, "d", "n"])
updates = st.fixed_dictionaries(
    {},
    optional={
        "host": hosts,
        "port": ports,
        "protocol": protocols,
        **dict.fromkeys(CLEARED, st.sampled_from(["", "d"])),
    },
)
entries = st.fixed_dictionaries(
    {"host": hosts, "port": ports, "protocol": protocols, **dict.fromkeys(CLEARED, texts)}
)
files = st.dictionaries(names, entries, max_size=4)
INVALID_FILES = (
    '[[backend]]\nname = "a"\nhost = "h1"\n',
    "[[backend]\n",
    '[[backend]]\nname="c"\nhost="h1"\nport=1\n[[backend]]\nname="c"\nhost="h2"\nport=1\n',
)


def lasting(backend: Backend | None) -> Backend | None:
    """A backend without what changes with each sign of life, which is no change."""
    return backend and msgspec.structs.replace(backend, last_seen=None, health=None)


class RegistryMachine(RuleBasedStateMachine):
    probe_interval = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.model = Model(stale_after=STALE_AFTER, is_probing=self.probe_interval > 0)
        self.folders = [Path(tempfile.mkdtemp(prefix="registry-machine-"))]
        self.config_path = self.folders[0] / "backends.toml"
        # The file as it is: what it states, None for an invalid one, and a version to compare.
        self.on_disk: dict[str, Entry] | None = {}
        self.file_exists = False
        self.file_version = 0
        self.seen_version: int | None = None
        self.looked_at: int | None = None
        self.next_part = 0
        # The backends as they were seen, by revision.
        self.seen: dict[int, dict[str, Backend | None]] = {0: {}}
        self._open()

    def teardown(self) -> None:
        self._close()
        self.loop.close()
        for folder in self.folders:
            shutil.rmtree(folder)

    # The methods.

    @rule(
        name=names,
        fields=entries,
        version=st.sampled_from([None, "1"]),
        source=st.sampled_from(["manual", "manual", "auto"]),
        replace=st.sampled_from([False, False, True]),
    )
    def register(
        self, name: str, fields: Entry, version: str | None, source: str, *, replace: bool
    ) -> None:
        claim = {"name": name, "version": version, "source": source, "replace": replace, **fields}
        expected = self._expect(
            lambda: self.model.register(
                name, version=version, source=source, replace=replace, **fields
            )
        )
        assert self._try(self.registry.register, msgspec.convert(claim, Register)) == expected

    @rule(name=names, given=updates)
    def update(self, name: str, given: Entry) -> None:
        expected = self._expect(lambda: self.model.update(name, **given))
        change = msgspec.convert({"name": name, **given}, Update)
        assert self._try(self.registry.update, change) == expected

    @rule(name=names)
    def delete(self, name: str) -> None:
        expected = self._expect(lambda: self.model.delete(name))
        assert self._try(self.registry.delete, name) == expected

    @rule(name=names)
    def deregister(self, name: str) -> None:
        expected = self._expect(lambda: self.model.deregister(name))
        assert self._try(self.registry.deregister, name) == expected

    @rule(name=names)
    def ping(self, name: str) -> None:
        assert self.loop.run(self.registry.ping, name).success == self.model.ping(name)

    @rule()
    def write_pings(self) -> None:
        self.model.write_pings()
        self.loop.run(self.registry.pings.write)

    # The config file.

    @rule(stated=files)
    def edit_file(self, stated: dict[str, Entry]) -> None:
        tables = [
            {"name": name, **{key: value for key, value in fields.items() if value is not None}}
            for name, fields in stated.items()
        ]
        self._write("# backends\n" + tomli_w.dumps({"backend": tables}), stated)

    @rule(text=st.sampled_from(INVALID_FILES))
    def break_file(self, text: str) -> None:
        self._write(text, None)

    @precondition(lambda self: self.file_exists)
    @rule()
    def remove_file(self) -> None:
        self.config_path.unlink()
        self.file_exists = False

    @rule()
    def poll(self) -> None:
        self._model_poll()
        self.loop.run(watch_config_once, self.registry)

    @rule()
    def reload(self) -> None:
        stated = self.on_disk if self.file_exists else {}
        self.seen_version = self.file_version if self.file_exists else -1
        if stated is None:
            with pytest.raises(ConfigInvalid):
                self.loop.run(self.registry.reload)
            return
        report = self.model.reload(stated)
        event = self.loop.run(self.registry.reload)
        assert event.count == len(stated)
        assert {key: list(getattr(event, key)) for key in report} == report

    # Time.

    @rule(seconds=st.sampled_from([1, 20, 45, 61]))
    def advance(self, seconds: int) -> None:
        self.model.now += seconds
        self.model.moment += seconds
        self.loop.jump(seconds)

    @rule(seconds=st.sampled_from([-3600, 3600, 86400]))
    def set_wall_clock(self, seconds: int) -> None:
        self.model.now += seconds

    @rule(seconds=st.sampled_from([5, 61]))
    def stall(self, seconds: int) -> None:
        self.advance(seconds)
        self.model.forgive(seconds)

        async def forgive() -> None:
            self.registry.health.note_pause(seconds)

        self.loop.run(forgive)

    @rule()
    def sweep(self) -> None:
        self.model.sweep()
        self.loop.run(sweep_once, self.registry)

    # Ends and starts.

    @rule()
    def restart(self) -> None:
        self._close()
        self._open_again(is_kill=False)

    @rule()
    def kill(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="registry-machine-"))
        for suffix in ("", "-wal"):
            source = self.folders[-1] / f"registry.db{suffix}"
            if source.exists():
                shutil.copy(source, folder)
        self._close()
        self.folders.append(folder)
        self._open_again(is_kill=True)

    # What must hold after every step.

    @invariant()
    def get_and_list_agree(self) -> None:
        expected = self.model.effective()
        for name in ("a", "b", "c", "e", "plexus", "nobody"):
            found = self.registry.get(name)
            assert (found is None) == (name not in expected), name
            if found is not None:
                self._compare(found, expected[name])
        for active_only in (True, False):
            shown = [
                name
                for name, _ in sorted(
                    expected.items(), key=lambda item: (-int(str(item[1]["created_at"])), item[0])
                )
                if expected[name]["is_active"] or not active_only
            ]
            listed = self.registry.list(active_only=active_only)
            assert [backend.name for backend in listed] == shown
            encoded = msgspec.json.decode(self.registry.catalog.listed(active_only=active_only))
            assert encoded["backends"] == [msgspec.to_builtins(backend) for backend in listed]

    @invariant()
    def the_history_gives_the_catalog(self) -> None:
        """Undo the changes one by one: each revision was as it was seen, back to the first."""
        current = {each.name: lasting(each) for each in self.registry.list(active_only=False)}
        revision = self.registry.change_log.revision
        assert self.seen.setdefault(revision, dict(current)) == current
        for change in self.registry.history(limit=1000):
            assert change.revision == revision
            assert change.by is not None
            if change.name is not None:
                assert current.pop(change.name, None) == lasting(change.after)
                if change.before is not None:
                    current[change.name] = lasting(change.before)
            revision -= 1
            assert self.seen.get(revision, current) == current
        assert (revision, current) == (0, {})

    @invariant()
    def the_database_agrees(self) -> None:
        found = {
            (record.name, str(record.layer)): record
            for record in read_records(self.folders[-1] / "registry.db")
        }
        expected = {
            (name, "database" if layer == "manual" else layer): stated
            for layer in RANKED
            for name, stated in self.model.saved[layer].items()
        }
        assert found.keys() == expected.keys()
        for key, record in found.items():
            self._compare_record(record, expected[key])

    def _compare_record(self, record: Record, expected: Entry | None) -> None:
        if expected is None or record.backend is None:
            assert expected is None
            assert record.backend is None
        else:
            self._compare(record.backend, expected)

    def _compare(self, found: Backend, expected: Entry) -> None:
        values = msgspec.structs.asdict(found)
        values["state"] = None if found.health is None else found.health.state
        assert found.is_active == (found.state in {State.UP, State.UNKNOWN})
        if expected["id"] is None:
            known = [e["id"] for layer in self.model.layers.values() for e in layer.values() if e]
            assert values["id"] not in known, "a new backend has an id of its own"
            self._learn_id(found, expected)
        assert {key: values[key] for key in expected} == expected

    def _learn_id(self, found: Backend, expected: Entry) -> None:
        """Take the id of a new entry, in all copies that the model has of it."""
        for layers in (self.model.layers, self.model.saved):
            for layer in layers.values():
                for each in layer.values():
                    same = each is not None and all(
                        each[key] == expected[key] for key in ("name", "source", "created_at")
                    )
                    if each is not None and same and each["id"] is None:
                        each["id"] = found.id
        expected["id"] = found.id

    # Helpers.

    def _write(self, text: str, stated: dict[str, Entry] | None) -> None:
        part = self.config_path.with_suffix(f".{self.next_part}")
        self.next_part += 1
        part.write_text(text)
        part.replace(self.config_path)
        self.on_disk, self.file_exists = stated, True
        self.file_version += 1

    def _model_poll(self) -> None:
        version = self.file_version if self.file_exists else -1
        # A start reads what is there; later, and for a missing file, it takes two looks.
        is_start = self.looked_at is None and version != -1
        is_settled = is_start or version == self.looked_at
        self.looked_at = version
        if not is_settled or version == self.seen_version:
            return
        self.seen_version = version
        stated = self.on_disk if self.file_exists else {}
        if stated is not None:
            self.model.declare("file", stated)

    def _expect(self, act: object) -> str | None:
        assert callable(act)
        try:
            act()
        except Refusal as refused:
            return str(refused)
        return None

    def _try(self, verb: object, argument: object) -> str | None:
        async def call() -> str | None:
            assert callable(verb)
            try:
                await verb(argument)
            except MethodError as error:
                return error.word
            return None

        return self.loop.run(call)

    def _open(self) -> None:
        settings = Settings(
            db_path=self.folders[-1] / "registry.db",
            config_path=self.config_path,
            env_backends=ENVIRONMENT,
            stale_after=STALE_AFTER,
            probe_interval=self.probe_interval,
        )
        self._context = open_registry(settings, now=lambda: self.model.now)
        self.registry: Registry = self.loop.run(self._context.__aenter__)
        self.model.declare("env", STATED_BY_ENVIRONMENT)
        self.model.declare("auto", BUILT_IN)
        self.seen_version = self.looked_at = None
        self._model_poll()

    def _open_again(self, *, is_kill: bool) -> None:
        self.model.start_again(is_kill=is_kill)
        self._open()

    def _close(self) -> None:
        self.loop.run(self._context.__aexit__, None, None, None)


class ProbingMachine(RegistryMachine):
    """The same registry, with probes. Only two names ever fail: too few to suspect the network."""

    probe_interval = 15

    @rule(name=names, answer=st.sampled_from(["its own", "its own", "other"]))
    def is_answered(self, name: str, answer: str) -> None:
        # The built-in entry is right by any name, and listed by it: see test_local_hub.py.
        is_built_in = self.model.held_in(name) == "auto"
        said = name if answer == "its own" or is_built_in else answer
        self.model.probe(name, said)
        self._probe(name, Answered(name=said, latency_ms=1.0, version="said"))

    @rule(name=st.sampled_from(["a", "b"]), times=st.integers(1, 3))
    def fails(self, name: str, times: int) -> None:
        for _ in range(times):
            self.model.probe(name, None)
            self._probe(name, Unanswered(reason="connect: connection refused"))

    # What takes several steps, and chance would seldom put together.

    @rule(name=st.sampled_from(["a", "b"]), times=st.integers(1, 4))
    def comes_and_goes(self, name: str, times: int) -> None:
        for _ in range(times):
            self.is_answered(name, "its own")
            self.fails(name, 3)
            self.get_and_list_agree()
        self.is_answered(name, "its own")

    @rule(name=st.sampled_from(["a", "b"]))
    def is_pinged_and_fails_before_the_stop(self, name: str) -> None:
        self.ping(name)
        self.fails(name, 1)
        self.restart()

    @rule(name=st.sampled_from(["a", "b"]))
    def says_goodbye_and_stops(self, name: str) -> None:
        self.deregister(name)
        self.is_answered(name, "its own")
        self.fails(name, 1)

    @rule(name=st.sampled_from(["a", "b"]))
    def is_another_and_then_nobody(self, name: str) -> None:
        self.is_answered(name, "other")
        self.get_and_list_agree()
        self.fails(name, 3)

    def _probe(self, name: str, outcome: Outcome) -> None:
        async def note() -> None:
            backend = self.registry.get(name)
            if backend is not None:
                began = trio.current_time()
                await self.registry.health.note_probe(backend, outcome, began=began)

        self.loop.run(note)


TestProbingMachine = pytest.mark.slow(ProbingMachine.TestCase)
TestRegistryMachine = pytest.mark.slow(RegistryMachine.TestCase)
