"""The most naive registry that can be right: dictionaries, and one plain function a method.

It shares no code with the product. A backend is a dictionary; a layer is a dictionary of them
by name, with None for a tombstone. What calls wrote is the layer `manual`, with the set of
names that were written in this run beside it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.fields import CLEARED, OPTIONAL

if TYPE_CHECKING:
    from collections.abc import Mapping

Entry = dict[str, object]
Layer = dict[str, "Entry | None"]

RANKED = ("manual", "env", "file", "auto")


def entry(source: str, now: int, **fields: object) -> Entry:
    """A new backend; its id is taken from the real one once, and then must stay."""
    return {
        **dict.fromkeys((*OPTIONAL, "last_seen", "id", "state")),
        **fields,
        "source": source,
        "is_active": True,
        "registered_at": now,
        "created_at": now,
        "updated_at": now,
    }


def address(backend: Entry) -> tuple[object, ...]:
    return (backend["host"], backend["port"], backend["protocol"])


def state_of(backend: Entry) -> str:
    """How a backend is; its `state` is None until anything but a ping was learned of it."""
    if backend["state"] is not None:
        return str(backend["state"])
    if backend["is_active"]:
        return "unknown" if backend["last_seen"] is None else "up"
    return "deregistered" if backend["last_seen"] is None else "stale"


def put(backend: Entry, state: str) -> None:
    backend.update(state=state, is_active=state in ("unknown", "up"))


@dataclass
class ProbeHistory:
    """What the probes of one address showed."""

    failures: int = 0
    lapsed: bool = False
    doubted: bool = False
    stopping: bool = False
    falls: int = 0
    up_since: float | None = None
    answers_since: float | None = None


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """The model's refusal, with the word of the error."""


@dataclass
class Model:
    """Everything the registry should know.

    Attributes:
        is_probing: Whether the registry probes.
        probes: What probes showed, by name.
        layers: By layer name, then by backend name.
        this_run: The names whose manual entry was written in this run.
        saved: What the disk holds: all but the pings that wait.
        unsaved: The layers and names whose first probe failed and changed nothing that is saved.
        unwritten: The names whose last ping is not on the disk; the whole backend is saved with it.
        deadlines: When each pinging backend goes stale, on the monotonic clock.
        now: The wall clock, in Unix seconds.
        moment: The monotonic clock, in seconds.
    """

    stale_after: int
    is_probing: bool = False
    probes: dict[str, ProbeHistory] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=lambda: {layer: {} for layer in RANKED})
    this_run: set[str] = field(default_factory=set)
    saved: dict[str, Layer] = field(default_factory=lambda: {layer: {} for layer in RANKED})
    deadlines: dict[str, float] = field(default_factory=dict)
    unsaved: set[tuple[str, str]] = field(default_factory=set)
    unwritten: set[str] = field(default_factory=set)
    now: int = 1_700_000_000
    moment: float = 0.0

    # What holds.

    def held_in(self, name: str) -> str | None:
        return next((layer for layer in RANKED if name in self.layers[layer]), None)

    def get(self, name: str) -> Entry | None:
        layer = self.held_in(name)
        return None if layer is None else self.layers[layer][name]

    def names(self) -> set[str]:
        return {name for layer in self.layers.values() for name in layer}

    def effective(self) -> dict[str, Entry]:
        return {name: found for name in self.names() if (found := self.get(name)) is not None}

    # The methods.

    def register(self, name: str, *, source: str, replace: bool, **fields: object) -> None:
        before = self._before()
        current = self.layers["manual"].get(name)
        claimed = entry(source, self.now, name=name, **fields)
        pinged = False
        if current is None:
            self.layers["manual"][name] = claimed
        elif address(current) == address(claimed):
            refreshed = copy.deepcopy(current)
            for optional in OPTIONAL:
                if claimed[optional] is not None:
                    refreshed[optional] = claimed[optional]
            if source == "auto":
                refreshed["source"] = "auto"
            if not current["is_active"]:
                refreshed.update(is_active=True, registered_at=self.now, state=None)
            if refreshed != current:
                refreshed["updated_at"] = self.now
            if current["last_seen"] is not None:
                if refreshed["state"] is not None and state_of(refreshed) == "unknown":
                    put(refreshed, "up")
                refreshed["last_seen"] = self.now
                pinged = True
            self.layers["manual"][name] = refreshed
        else:
            is_live = bool(current["is_active"]) and name in self.this_run
            if is_live and not replace and source != "auto":
                raise Refusal("name_taken")
            claimed.update(id=current["id"], created_at=current["created_at"])
            self.layers["manual"][name] = claimed
        self.this_run.add(name)
        self._saved_since(before)
        if name in self.probes:
            probes = self.probes[name]
            probes.failures, probes.lapsed, probes.doubted = 0, False, False
        if pinged:
            self.deadlines[name] = self.moment + self.stale_after

    def update(self, name: str, **given: object) -> None:
        before = self._before()
        current = self.get(name)
        if current is None:
            raise Refusal("not_found")
        changed = copy.deepcopy(current)
        for key, value in given.items():
            clears = key in CLEARED and value == ""
            changed[key] = None if clears else value
        changed["updated_at"] = self.now
        if self.held_in(name) != "manual":
            changed["source"] = "manual"
        if address(changed) != address(current):
            changed.update(last_seen=None, is_active=True, state=None)
        self.layers["manual"][name] = changed
        self.this_run.add(name)
        self._saved_since(before)

    def delete(self, name: str) -> None:
        before = self._before()
        if self.get(name) is None:
            raise Refusal("not_found")
        self.layers["manual"].pop(name, None)
        if any(name in self.layers[layer] for layer in RANKED):
            self.layers["manual"][name] = None
            self.this_run.add(name)
        self._saved_since(before)

    def deregister(self, name: str) -> None:
        before = self._before()
        current = self.get(name)
        if current is None:
            raise Refusal("not_found")
        put(current, "deregistered")
        if self.held_in(name) == "manual":
            self.this_run.add(name)
        self._saved_since(before)

    def ping(self, name: str) -> bool:
        before = self._before()
        current = self.get(name)
        if current is None:
            return False
        is_learned = current["state"] is not None or not current["is_active"]
        revives = is_learned and state_of(current) not in ("up", "wrong_hub")
        if revives:
            put(current, "up")
        current["last_seen"] = self.now
        if self.held_in(name) == "manual":
            self.this_run.add(name)
        if revives:
            self._saved_since(before)
        else:
            self.unwritten.add(name)
        if current["is_active"]:
            self.deadlines[name] = self.moment + self.stale_after
            if name in self.probes:
                self.probes[name].doubted = False
        return True

    def probe(self, name: str, answer: str | None) -> None:
        """Take note of a probe: the name and version that were answered, or None."""
        before = self._before()
        current = self.get(name)
        if current is None:
            return
        probes = self.probes.setdefault(name, ProbeHistory())
        was = state_of(current)
        state = was
        is_first = current["state"] is None
        if answer is None:
            probes.failures += 1
            probes.answers_since = None
            probes.lapsed = probes.lapsed or probes.failures >= 3
            pings = self.deadlines.get(name, self.moment) > self.moment
            if probes.doubted:
                state = "deregistered" if was == "up" else was
                probes.stopping = was == "up"
            elif probes.lapsed and not pings and was in ("unknown", "up", "wrong_hub"):
                state = "down"
        else:
            probes.failures, probes.lapsed = 0, False
            if answer not in (name, current["namespace"]):
                probes.answers_since = None
                state = "wrong_hub"
            else:
                probes.doubted = probes.doubted and was != "up"
                if probes.answers_since is None:
                    probes.answers_since = self.moment
                hold = 0 if probes.falls <= 2 else min(300, 15 * 2 ** (probes.falls - 3))
                is_held = self.moment < probes.answers_since + hold
                if was not in ("down", "wrong_hub", "deregistered") or not is_held:
                    state = "up"
                    current["version"] = "said"
        put(current, state)
        if answer is None and is_first and state == was:
            if name not in self.unwritten:
                self.unsaved.add((str(self.held_in(name)), name))
        else:
            self._saved_since(before)

    def write_pings(self) -> None:
        self.saved = copy.deepcopy(self.layers)
        self._forget_unsaved(self.saved)
        self.unwritten.clear()

    def _forget_unsaved(self, layers: dict[str, Layer]) -> None:
        for layer, name in self.unsaved:
            backend = layers[layer].get(name)
            if backend is not None:
                backend["state"] = None

    # The origins.

    def declare(self, layer: str, stated: dict[str, Entry]) -> dict[str, list[str]]:
        before = self._before()
        report: dict[str, list[str]] = {"added": [], "updated": [], "removed": []}
        for name in sorted(self.layers[layer].keys() - stated.keys()):
            del self.layers[layer][name]
            report["removed"].append(name)
        for name, fields in sorted(stated.items()):
            former = self.layers[layer].get(name)
            if former is None:
                self.layers[layer][name] = entry(layer, self.now, name=name, **fields)
                report["added"].append(name)
            elif any(former[key] != fields[key] for key in fields):
                if address(former) != address({**former, **fields}):
                    former.update(last_seen=None, is_active=True, state=None)
                former.update(fields, updated_at=self.now)
                report["updated"].append(name)
        self._saved_since(before)
        return report

    def reload(self, stated: dict[str, Entry]) -> dict[str, list[str]]:
        before = self._before()
        for name in stated:
            if name in self.layers["manual"] and self.layers["manual"][name] is None:
                del self.layers["manual"][name]
        report = self.declare("file", stated)
        self._saved_since(before)
        return report

    # Time.

    def sweep(self) -> None:
        before = self._before()
        for name, deadline in list(self.deadlines.items()):
            current = self.get(name)
            if current is None or deadline > self.moment:
                continue
            if not self.is_probing:
                put(current, "stale")
            elif name in self.probes and self.probes[name].lapsed:
                put(current, "down")
        self._saved_since(before)

    def forgive(self, pause: float) -> None:
        latest = self.moment + self.stale_after
        for name, deadline in self.deadlines.items():
            self.deadlines[name] = min(deadline + pause, latest)

    def start_again(self, *, is_kill: bool) -> None:
        if is_kill:
            self.layers = copy.deepcopy(self.saved)
        self._forget_unsaved(self.layers)
        self.unsaved = set()
        self.this_run = set()
        self.probes = {}
        self.deadlines = {
            name: self.moment + self.stale_after
            for name, backend in self.effective().items()
            if backend["is_active"] and backend["last_seen"] is not None
        }
        self.write_pings()

    # Bookkeeping.

    def _before(self) -> tuple[dict[str, Layer], set[str]]:
        return copy.deepcopy(self.layers), set(self.this_run)

    def _saved_since(self, before: tuple[dict[str, Layer], set[str]]) -> None:
        """What an operation changed is on the disk now, and health follows what names mean."""
        layers_before, this_run_before = before
        for name in self.names() | {n for layer in layers_before.values() for n in layer}:
            was = {layer: layers_before[layer].get(name, "absent") for layer in RANKED}
            now = {layer: self.layers[layer].get(name, "absent") for layer in RANKED}
            if was == now and (name in this_run_before) == (name in self.this_run):
                continue
            self.unsaved -= {(layer, name) for layer in RANKED}
            self.unwritten.discard(name)
            for layer in RANKED:
                self.saved[layer].pop(name, None)
                if name in self.layers[layer]:
                    self.saved[layer][name] = copy.deepcopy(self.layers[layer][name])
            self._follow(name, was, self.get(name))

    def _follow(self, name: str, was: Mapping[str, object], after: Entry | None) -> None:
        held_before = next((was[layer] for layer in RANKED if was[layer] != "absent"), None)
        if after is None or not after["is_active"] or after["last_seen"] is None:
            self.deadlines.pop(name, None)
        elif (
            name not in self.deadlines
            or not isinstance(held_before, dict)
            or address(held_before) != address(after)
        ):
            self.deadlines[name] = self.moment + self.stale_after
        self._follow_probes(name, held_before, after)

    def _follow_probes(self, name: str, before: object, after: Entry | None) -> None:
        if after is None or not isinstance(before, dict) or address(before) != address(after):
            self.probes.pop(name, None)
            return
        probes = self.probes.setdefault(name, ProbeHistory())
        was, state = state_of(before), state_of(after)
        if after["state"] is None:
            probes.failures, probes.lapsed, probes.doubted = 0, False, False
        has_stopped, probes.stopping = probes.stopping, False
        if state == "deregistered" != was:
            probes.doubted = not has_stopped
        if state == "up":
            probes.up_since = self.moment if probes.up_since is None else probes.up_since
        elif was == "up" and (state in ("down", "wrong_hub") or has_stopped):
            if probes.up_since is not None and self.moment - probes.up_since >= 600:
                probes.falls = 0
            probes.falls += 1
            probes.up_since = probes.answers_since = None
