"""Faults below SQLite and kills: what was acknowledged stays, what was refused does not appear.

Only a refusal that says that its outcome is unknown may show after a restart, and only where the
process died before it could repair the database.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.e2e.disk_faults import Fault, Faults, disk_faults
from tests.e2e.harness import FRESH_COMMAND, Peer, ServerProcess, dial, eventually, running_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

STORAGE_FAILED, NOT_FOUND = -32004, -32001
OPTIONS = ("--no-auto-register", "--poll-interval=3600")
# More of them for a soak: FAULT_ROUNDS=500 FAULT_SEED=7 pytest tests/e2e/test_disk_faults.py -s
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "4"))
SEED = int(os.environ.get("FAULT_SEED", "1"))


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    with disk_faults(tmp_path) as faults:
        yield faults


def faulty_registry(folder: Path, faults: Faults) -> AbstractAsyncContextManager[ServerProcess]:
    """Run a registry on a disk that can be made to fail."""
    return running_registry(folder, *OPTIONS, env=faults.env, command=FRESH_COMMAND)


async def storage(peer: Peer, method: str, **params: object) -> object:
    """Call a method that must fail with `storage_failed`, and give its `data.outcome`."""
    error = await peer.error(f"registry.{method}", **params)
    assert error["code"] == STORAGE_FAILED, error
    data = error["data"]
    assert isinstance(data, dict)
    return data.get("outcome")


async def test_what_is_acknowledged_after_a_doubt_survives(tmp_path: Path, faults: Faults) -> None:
    with trio.fail_after(40):
        async with faulty_registry(tmp_path, faults) as server:
            async with dial(server.url) as peer:
                y = {"name": "y", "host": "h", "port": 1}
                await peer.call("registry.register", **y)
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "delete", name="y") == "unknown"
                # It changes nothing in memory, and must not be acknowledged for that.
                assert await storage(peer, "register", **y) == "unknown"
                assert await storage(peer, "delete", name="nobody") == "unknown"
                assert await peer.names() == ["y"]
                faults.clear()
                await peer.call("registry.register", **y)
                await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["y"]


async def test_what_is_not_found_after_a_doubt_does_not_appear(
    tmp_path: Path, faults: Faults
) -> None:
    with trio.fail_after(40):
        async with faulty_registry(tmp_path, faults) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="y", host="h", port=1)
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "register", name="z", host="h", port=1) == "unknown"
                faults.clear()
                assert (await peer.error("registry.delete", name="z"))["code"] == NOT_FOUND
                await server.kill()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["y"]


async def test_a_doubt_is_repaired_though_nobody_asks(tmp_path: Path, faults: Faults) -> None:
    with trio.fail_after(40):
        async with faulty_registry(tmp_path, faults) as server:
            async with dial(server.url) as peer:
                await peer.call("registry.register", name="y", host="h", port=1)
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "register", name="z", host="h", port=1) == "unknown"
                assert await storage(peer, "delete", name="y") == "unknown"
                failed = faults.failed
                # The repair is tried, and tried again.
                await eventually(lambda: faults.failed >= failed + 2)
                faults.clear()
                await eventually(lambda: "storage works again" in server.log)
                await server.kill()
            assert server.log.count("storage fails") == 1
            assert server.log.count("storage works again") == 1
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["y"]


async def test_a_crash_before_the_repair_shows_what_was_said_to_be_unknown(
    tmp_path: Path, faults: Faults
) -> None:
    # It shows that the faults are real ones, and the doubt is no mere caution.
    with trio.fail_after(40):
        async with faulty_registry(tmp_path, faults) as server:
            async with dial(server.url) as peer:
                faults.set(Fault.SYNC_EIO)
                assert await storage(peer, "register", name="z", host="h", port=1) == "unknown"
                await server.kill()
        faults.clear()
        async with running_registry(tmp_path, *OPTIONS) as server, dial(server.url) as peer:
            assert await peer.names() == ["z"]


# The fuzz.

State = tuple[int, str, bool] | None
"""What is known of a name: port, description and whether it is active; None: it does not exist."""


@dataclass
class Name:
    """A name that one connection alone changes.

    Attributes:
        state: What the acknowledged changes left.
        unknown: What refused changes may have left on the disk, and when they were refused.
        unanswered: What the change in flight leaves, should it be carried out.
        is_of_this_run: Whether it was registered since the start; to register it again at the same
            address changes nothing then.
    """

    state: State = None
    unknown: dict[State, int] = field(default_factory=dict)
    unanswered: list[State] = field(default_factory=list)
    is_of_this_run: bool = False


class Calls(Enum):
    """Which calls the connections make."""

    ANY = "any"
    NEW_NAMES = "only registrations of names that do not exist"
    NO_CHANGE = "only calls that change nothing"


class Ledger:
    """Keeps what may be on the disk, by the answers that came.

    Attributes:
        calls: Which calls are made from now on.
        under_way: How many calls of each kind wait for their answer.
        made: How many calls of each kind were answered.
        answered: Set at the next answer that rests on the disk.
        names: What is known of each name.
        counts: How many answers of each kind came, and what was found after the kills.
        wrong: What a restart showed though no answer allows it.
    """

    def __init__(self) -> None:
        self.calls = Calls.ANY
        self.under_way: Counter[Calls] = Counter()
        self.made: Counter[str] = Counter()
        self.answered = trio.Event()
        self.names: dict[str, Name] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._moment = 0

    def tick(self) -> int:
        self._moment += 1
        return self._moment

    def note_answer(self, sent: int) -> None:
        """After an answer that rests on the disk, no doubt is left of what came before it."""
        self.answered.set()
        self.answered = trio.Event()
        for name in self.names.values():
            name.unknown = {state: at for state, at in name.unknown.items() if at > sent}

    def judge(self, found: dict[str, State]) -> None:
        """Compare with what a restart shows, and go on from there."""
        for key, name in self.names.items():
            state = found.get(key)
            if state == name.state:
                continue
            if state in name.unknown:
                self.counts["unknown and there"] += 1
            elif state in name.unanswered:
                self.counts["unanswered and there"] += 1
            else:
                self.counts["lost or appeared"] += 1
                self.wrong.append(f"{key}: found {state}, but {name}")
        assert found.keys() <= self.names.keys()
        self.names = {key: Name(found.get(key)) for key in self.names}
        self.calls = Calls.ANY
        self.under_way.clear()

    async def only(self, calls: Calls) -> None:
        """Have only calls of one kind made, and wait until all others are answered."""
        self.calls = calls
        await eventually(lambda: self.under_way.total() == self.under_way[calls])


def some_change(
    random: random.Random, name: str, state: State
) -> tuple[str, dict[str, object], State]:
    """Choose a change, and give its method, its parameters and what it leaves."""
    described = random.choice("xyz")
    match random.randrange(6):
        case 0 | 1:
            port = random.choice([1, 2])
            params = {"port": port, "description": described, "replace": True}
            return "register", {"name": name, "host": "h", **params}, (port, described, True)
        case 2 if state is not None:  # changes nothing, or only makes it active
            same = (state[0], state[1], True)
            params = {"port": state[0], "description": state[1]}
            return "register", {"name": name, "host": "h", **params}, same
        case 3:
            left = state and (state[0], described, state[2])
            return "update", {"name": name, "description": described}, left
        case 4:
            return "deregister", {"name": name}, state and (state[0], state[1], False)
        case _:
            return "delete", {"name": name}, None


def new_name(name: str) -> tuple[str, dict[str, object], State]:
    """Register a name that does not exist."""
    params: dict[str, object] = {"name": name, "host": "h", "port": 1, "description": "new"}
    return "register", params, (1, "new", True)


def no_change(name: str, state: State) -> tuple[str, dict[str, object], State]:
    """Call what changes nothing of a name that is active or does not exist."""
    if state is None:
        return "delete", {"name": name}, None
    params = {"port": state[0], "description": state[1]}
    return "register", {"name": name, "host": "h", **params}, state


def some_call(
    random: random.Random, prefix: str, ledger: Ledger
) -> tuple[str, tuple[str, dict[str, object], State]]:
    """Choose a name and a call of the kind that is asked for."""
    mine = {f"{prefix}-{number}": Name() for number in range(6)}
    mine |= {key: name for key, name in ledger.names.items() if key in mine}
    key = random.choice(list(mine))
    if ledger.calls is Calls.ANY:
        return key, some_change(random, key, mine[key].state)
    missing = [key for key, name in mine.items() if name.state is None]
    if ledger.calls is Calls.NEW_NAMES and missing:
        key = random.choice(missing)
        return key, new_name(key)
    # A call that needs no save, of a name that a refused change may have left on the disk.
    fit = [key for key, name in mine.items() if is_no_change_possible(name)]
    in_doubt = [key for key in fit if mine[key].unknown]
    key = random.choice(in_doubt or fit or [f"{prefix}-nobody"])
    return key, no_change(key, mine.get(key, Name()).state)


def is_no_change_possible(name: Name) -> bool:
    return name.state is None or (name.state[2] and name.is_of_this_run)


async def change_on_and_on(
    url: str,
    prefix: str,
    ledger: Ledger,
    seed: str,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Make changes until the connection dies, and note what each answer tells."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable choice
    try:
        async with dial(url) as peer:
            task_status.started()
            while True:
                await change_once(peer, prefix, ledger, chance)
    except* (ConnectionClosed, OSError):
        pass  # the process was killed


async def change_once(peer: Peer, prefix: str, ledger: Ledger, chance: random.Random) -> None:
    calls = ledger.calls
    key, (method, params, left) = some_call(chance, prefix, ledger)
    name = ledger.names.setdefault(key, Name())
    name.unanswered = [left]
    sent = ledger.tick()
    ledger.under_way[calls] += 1
    answer = await peer.ask(f"registry.{method}", **params)
    ledger.under_way[calls] -= 1
    name.unanswered = []
    ledger.made[calls.name] += 1
    error = answer.get("error")
    if error is None:
        name.state = left
        name.is_of_this_run |= method == "register"
        ledger.counts["acknowledged"] += 1
        ledger.note_answer(sent)
        return
    assert isinstance(error, dict)
    if error["code"] != STORAGE_FAILED:
        assert error["code"] == NOT_FOUND
        assert name.state is None
        ledger.counts["not found"] += 1
        ledger.note_answer(sent)
    elif "outcome" in error["data"]:
        assert error["data"]["outcome"] == "unknown"
        name.unknown[left] = ledger.tick()
        ledger.counts["refused, unknown"] += 1
    else:
        ledger.counts["refused"] += 1


async def found_by(peer: Peer) -> dict[str, State]:
    return {
        str(each["name"]): (
            int(str(each["port"])),
            str(each.get("description")),
            bool(each["is_active"]),
        )
        for each in await peer.backends()
    }


async def break_the_disk(faults: Faults, chance: random.Random, ledger: Ledger) -> None:
    """Make the disk fail and work again, a few times, and leave it as it happens to be."""
    for _ in range(chance.randrange(1, 6)):
        fault = Fault(chance.randrange(1, len(Fault)))
        failed = faults.failed
        wanted = chance.randrange(1, 40)
        faults.set(fault, after=chance.randrange(12))
        await eventually(partial(has_failed_since, faults, failed))
        await more_answers(ledger, wanted)
        if chance.random() < 0.3:
            return
        faults.clear()
        await more_answers(ledger, wanted)


async def leave_a_doubt(
    faults: Faults, chance: random.Random, ledger: Ledger, *, calls: Calls
) -> None:
    """Leave refused changes in the log, and return at the answer to a call that changes nothing.

    What the first such answer rests on is the repair alone: a save that writes a page, though it
    changes no row, must have replaced what the log held.
    """
    faults.clear()
    await ledger.answered.wait()
    await ledger.only(Calls.NO_CHANGE)
    await ledger.answered.wait()  # and all that was in doubt before is repaired
    refused = ledger.counts["refused, unknown"] + chance.randrange(1, 12)
    fault = Fault.SYNC_EIO if chance.random() < 0.8 else Fault(chance.randrange(1, len(Fault)))
    faults.set(Fault.SYNC_EIO if calls is Calls.NEW_NAMES else fault)
    ledger.calls = calls
    await eventually(lambda: ledger.counts["refused, unknown"] >= refused)
    await ledger.only(Calls.NO_CHANGE)
    is_over = chance.random() < 0.8
    answered = ledger.answered
    if is_over:
        faults.clear()
    # While the doubt is open there should be none; a few refusals must do then.
    refused = ledger.counts["refused, unknown"] + chance.randrange(4, 12)
    await eventually(
        lambda: answered.is_set() or (not is_over and ledger.counts["refused, unknown"] >= refused)
    )
    ledger.counts["kills after an answer without a change"] += answered.is_set()


def has_failed_since(faults: Faults, failed: int) -> bool:
    return faults.failed > failed


async def more_answers(ledger: Ledger, wanted: int) -> None:
    enough = ledger.counts.total() + wanted
    await eventually(lambda: ledger.counts.total() >= enough)


@pytest.mark.slow
async def test_faults_and_kills_lose_nothing_and_bring_nothing_back(
    tmp_path: Path, faults: Faults
) -> None:
    ledger = Ledger()
    chance = random.Random(SEED)  # noqa: S311 - a repeatable choice
    for number in range(ROUNDS + 1):
        faults.clear()
        with trio.fail_after(60):
            async with faulty_registry(tmp_path, faults) as server:
                async with dial(server.url) as peer:
                    ledger.judge(await found_by(peer))
                if number == ROUNDS:
                    break
                async with trio.open_nursery() as nursery:
                    for prefix in "abcd":
                        seed = f"{SEED} {number} {prefix}"
                        await nursery.start(change_on_and_on, server.url, prefix, ledger, seed)
                    if number % 3 == 0 or chance.random() < 0.4:
                        await break_the_disk(faults, chance, ledger)
                    if number % 3:
                        calls = Calls.NEW_NAMES if number % 3 == 1 else Calls.ANY
                        await leave_a_doubt(faults, chance, ledger, calls=calls)
                    await server.kill()
    figures = {"lost or appeared": 0, **ledger.counts}
    print(f"\n{ROUNDS} rounds, seed {SEED}: {figures}, {dict(ledger.made)}")  # noqa: T201 - what a soak is run for
    assert ledger.wrong == []
    assert ledger.counts["acknowledged"] > 0
    assert ledger.counts["kills after an answer without a change"] > 0
    assert ledger.counts["refused, unknown"] > 0
