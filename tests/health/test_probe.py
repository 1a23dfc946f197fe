"""One probe, step by step, on a virtual clock."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    RejectConnection,
    Request,
    TextMessage,
)

from plexus_registry.health.network import (
    RESOLVERS,
    Connection,
    Networks,
    RealNetwork,
    parse_networks,
)
from plexus_registry.health.probe import Probe
from plexus_registry.rules.backend import Register
from plexus_registry.rules.errors import StartError
from plexus_registry.rules.states import Answered, Report, Unanswered, Unchecked, Untried
from plexus_registry.tasks.prober import probe_forever
from tests.fakes import opened
from tests.health.test_tracker import backend_of
from tests.memory_hubs import (
    HASH,
    Hub,
    MemoryNetwork,
    answer_after,
    flood,
    hang,
    hang_up,
    info_frames,
    talk_on,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from trio.testing import MockClock
    from wsproto.events import Event

    from plexus_registry.health.network import SocketAddress
    from plexus_registry.rules.backend import Backend

HUB2 = msgspec.structs.replace(backend_of("hub2", host="127.0.0.1"), port=5001)


@asynccontextmanager
async def probing(
    *hubs: Hub, networks: Networks = ()
) -> AsyncIterator[tuple[MemoryNetwork, Probe]]:
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery, ((5001 + index, hub) for index, hub in enumerate(hubs)))
        yield network, Probe(network=network, networks=networks)
        nursery.cancel_scope.cancel()


async def probe(backend: Backend, *hubs: Hub, networks: Networks = ()) -> Report:
    async with probing(*hubs, networks=networks) as (_, ask):
        return await ask(backend)


def reason_of(report: Report) -> str:
    assert not isinstance(report.outcome, Answered)
    return report.outcome.reason


def steps(report: Report) -> list[tuple[str, bool]]:
    return [(step.step, step.ok) for step in report.steps]


async def test_a_hub_says_who_it_is(autojump_clock: MockClock) -> None:
    report = await probe(HUB2, Hub("hub2", behave=answer_after(0.25)))
    assert report.outcome == Answered(
        name="hub2", latency_ms=250.0, version="1.0", schema_hash=HASH
    )
    assert steps(report) == [
        *(("resolve", True), ("connect", True), ("upgrade", True), ("_info", True)),
        ("name", True),
    ]
    assert [step.ms for step in report.steps] == [0, 0, 250, 0, 0]
    assert report.steps[3].detail == "hub2, version 1.0"


@pytest.mark.parametrize("host", ["localhost", "LocalHost."])
async def test_the_name_of_this_machine_needs_no_name_server(
    autojump_clock: MockClock, host: str
) -> None:
    async with probing(Hub("hub2")) as (network, ask):
        report = await ask(msgspec.structs.replace(HUB2, host=host))
    assert isinstance(report.outcome, Answered)
    assert report.steps[0].detail == "127.0.0.1, ::1"
    assert network.resolved == []


async def test_a_hub_of_another_name_fails_at_the_name(autojump_clock: MockClock) -> None:
    report = await probe(HUB2, Hub("hub3"))
    assert isinstance(report.outcome, Answered)
    assert report.outcome.name == "hub3"
    assert report.steps[-1].detail == 'it answers as "hub3", not as "hub2"'
    assert steps(report)[-1] == ("name", False)


async def test_a_late_answer_counts_and_a_later_one_does_not(autojump_clock: MockClock) -> None:
    assert isinstance((await probe(HUB2, Hub("hub2", behave=answer_after(1.9)))).outcome, Answered)
    report = await probe(HUB2, Hub("hub2", behave=answer_after(2.1)))
    assert report.outcome == Unanswered(reason="upgrade: no answer within 2 s")
    assert steps(report)[-1] == ("upgrade", False)


@pytest.mark.parametrize(
    ("behave", "reason", "seconds"),
    [
        (hang, "upgrade: no answer within 2 s", 2.0),
        (talk_on, "upgrade: no answer within 2 s", 2.0),
        (flood, "upgrade: it sends more than 65536 bytes", 0.0),
        (hang_up, "upgrade: it hung up", 0.0),
    ],
)
async def test_a_hub_that_misbehaves_costs_no_more_than_the_timeout(
    behave: Callable[[Hub, trio.abc.Stream], Awaitable[None]],
    reason: str,
    seconds: float,
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    async with probing(Hub("hub2", behave=behave)) as (network, ask):
        assert (await ask(HUB2)).outcome == Unanswered(reason=reason)
        assert trio.current_time() - began == pytest.approx(seconds)
        if behave is not hang:
            with trio.fail_after(1):
                while network.open_streams:  # noqa: ASYNC110 - it ends when it next sends
                    await trio.sleep(0.1)


async def test_nobody_listens(autojump_clock: MockClock) -> None:
    report = await probe(HUB2)
    assert report.outcome == Unanswered(reason="connect: connection refused")
    assert steps(report) == [("resolve", True), ("connect", False)]


async def test_a_name_that_nobody_knows(autojump_clock: MockClock) -> None:
    report = await probe(msgspec.structs.replace(HUB2, host="nowhere"))
    assert report.outcome == Unanswered(reason="resolve: name or service not known")


async def test_a_name_that_no_name_server_takes(autojump_clock: MockClock) -> None:
    async with probing() as (network, ask):

        async def refuse(host: str, _port: int, _begun: Callable[[], None]) -> list[SocketAddress]:
            await trio.lowlevel.checkpoint()
            raise UnicodeError(f"encoding of {host} failed")

        network.resolve = refuse  # type: ignore[method-assign, assignment]  # an odd one
        report = await ask(msgspec.structs.replace(HUB2, host="odd"))
        assert report.outcome == Unanswered(reason="resolve: encoding of odd failed")


async def test_look_ups_that_hang_do_not_count_against_other_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each holds a thread until its name server gives up; who gets none was not asked."""
    over = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ask = Probe(network=RealNetwork(), timeout_seconds=0.2)
    reports = []

    async def note(host: str) -> None:
        reports.append(await ask(msgspec.structs.replace(HUB2, host=host)))

    try:
        async with trio.open_nursery() as nursery:
            for index in range(RESOLVERS + 3):
                nursery.start_soon(note, f"name{index}")
    finally:
        over.set()
    outcomes = Counter(type(report.outcome) for report in reports)
    assert outcomes == {Unanswered: RESOLVERS, Untried: 3}
    assert {reason_of(report) for report in reports} == {
        "resolve: no answer within 0.2 s",
        f"resolve: {RESOLVERS} look-ups of other names hang",
    }


@pytest.mark.parametrize("others", [0, RESOLVERS], ids=["looked up", "queued"])
async def test_a_cancellation_from_outside_is_no_outcome(
    monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    over = threading.Event()
    token = trio.lowlevel.current_trio_token()
    has_begun = trio.Event()
    begun: list[str] = []

    def look_up(host: str, *_: object, **__: object) -> list[object]:
        begun.append(host)
        if len(begun) == max(others, 1):
            token.run_sync_soon(has_begun.set)
        over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ask = Probe(network=RealNetwork(), timeout_seconds=600)
    reports = []

    async def note(host: str) -> None:
        reports.append(await ask(msgspec.structs.replace(HUB2, host=host)))

    try:
        async with trio.open_nursery() as nursery:
            for index in range(others):
                nursery.start_soon(note, f"name{index}")
            if others:
                await has_begun.wait()
            nursery.start_soon(note, "last")
            await has_begun.wait()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    finally:
        over.set()
    assert nursery.cancel_scope.cancelled_caught
    assert reports == []
    assert ("last" in begun) == (others == 0)


async def test_each_address_of_a_name_gets_its_part_of_the_time(
    autojump_clock: MockClock,
) -> None:
    async with probing(Hub("hub2")) as (network, ask):
        network.names["hub"] = ["10.0.0.1", "127.0.0.1"]
        connect = network.connect

        async def connect_but_not_to_all(address: object) -> trio.abc.Stream:
            if getattr(address, "host", None) == "10.0.0.1":
                await trio.sleep_forever()
            return await connect(address)  # type: ignore[arg-type]  # it is an Address

        network.connect = connect_but_not_to_all  # type: ignore[method-assign]  # a bad route
        report = await ask(msgspec.structs.replace(HUB2, host="hub"))
        assert isinstance(report.outcome, Answered)
        assert report.steps[1].ms == 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"host": "169.254.169.254"}, "169.254.169.254 is link-local"),
        ({"host": "fe80::1%eth0"}, "fe80::1 is link-local"),
        ({"host": "11.0.0.1"}, "11.0.0.1 is in none of the networks"),
        ({"host": "inside"}, "11.0.0.2 is in none of the networks"),
        ({"host": "h\r\nX: y"}, "the host must be"),
        ({"port": 0}, "the port must be"),
        ({"protocol": "http"}, "the protocol must be"),
    ],
)
async def test_an_address_that_must_not_be_probed_is_not(
    change: dict[str, object], reason: str, autojump_clock: MockClock
) -> None:
    hub = Hub("hub2")
    async with probing(hub, networks=parse_networks("127.0.0.0/8")) as (network, ask):
        network.names["inside"] = ["11.0.0.2"]
        report = await ask(msgspec.structs.replace(HUB2, **change))
        assert isinstance(report.outcome, Unchecked)
        assert reason in report.outcome.reason
        assert hub.asked == []


async def test_a_hub_that_wants_a_credential_cannot_be_checked(autojump_clock: MockClock) -> None:
    async def refuse(_hub: Hub, stream: trio.abc.Stream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    report = await probe(HUB2, Hub("hub2", behave=refuse))
    assert report.outcome == Unchecked(
        reason="upgrade: it wants a credential: HTTP status 401", wants_credential=True
    )


class Speaker:
    """A hub that sends the next events of a script whenever it reads a message.

    Attributes:
        turns: What is left of the script.
        hangs: Whether it says nothing more when the script is over; otherwise it hangs up.
    """

    def __init__(self, *turns: Sequence[Event], hangs: bool = False) -> None:
        self.turns = [*turns]
        self.hangs = hangs

    async def __call__(self, hub: Hub, stream: trio.abc.Stream) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        while self.turns:
            ws.receive_data(bytes(await stream.receive_some(4096)) or None)
            for event in ws.events():
                if isinstance(event, Request | TextMessage) and self.turns:
                    await stream.send_all(b"".join(map(ws.send, self.turns.pop(0))))
        if not self.hangs:
            assert isinstance(stream, trio.abc.HalfCloseableStream)
            await stream.send_eof()
        await hang(hub, stream)


def texts(*frames: str) -> list[Event]:
    return [TextMessage(frame) for frame in frames]


UPGRADE = [AcceptConnection()]
INFO = texts(*info_frames("hub2"))
NO_HASH = texts(*info_frames("hub2", schema_hash=""))
HASH_ITEM = texts(*(each.replace('"backend"', '"value"') for each in info_frames("a" * 16)))


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([UPGRADE], "_info: it hung up"),
        ([UPGRADE, texts("no JSON")], "_info: it sends something that is not a JSON-RPC message"),
        ([UPGRADE, [CloseConnection(code=1001)]], "_info: it closes the connection with code 1001"),
        ([[RejectConnection(status_code=404)]], "upgrade: it answers with HTTP status 404"),
    ],
)
async def test_the_step_that_fails_is_named(
    turns: Sequence[Sequence[Event]], reason: str, autojump_clock: MockClock
) -> None:
    assert reason_of(await probe(HUB2, Hub("hub2", behave=Speaker(*turns)))) == reason


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_hub_that_stops_after_it_reported_its_name_is_there(
    *, hangs: bool, autojump_clock: MockClock
) -> None:
    hub = Hub("hub2", behave=Speaker(UPGRADE, NO_HASH, hangs=hangs))
    outcome = (await probe(HUB2, hub)).outcome
    assert outcome == Answered(name="hub2", latency_ms=0, version="1.0")


async def test_a_hash_that_is_not_in_the_answer_is_asked_for(autojump_clock: MockClock) -> None:
    outcome = (await probe(HUB2, Hub("hub2", behave=Speaker(UPGRADE, NO_HASH, HASH_ITEM)))).outcome
    assert outcome == Answered(
        name="hub2", latency_ms=0, version="1.0", schema_hash="aaaaaaaaaaaaaaaa"
    )


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENETUNREACH, Unanswered),
        (errno.EMFILE, Untried),
        (errno.ENFILE, Untried),
        (errno.ENOBUFS, Untried),
        (errno.ENOMEM, Untried),
    ],
)
async def test_a_shortage_on_this_machine_counts_against_no_hub(
    number: int, kind: type[Unanswered | Untried], autojump_clock: MockClock
) -> None:
    async with probing(Hub("hub2")) as (network, ask):

        async def refuse(_address: SocketAddress) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            raise OSError(number, "no")

        network.connect = refuse  # type: ignore[method-assign, assignment]  # it lacks something
        outcome = (await ask(HUB2)).outcome
    assert outcome == kind(reason=f"connect: {os.strerror(number).lower()}")


class CountingNetwork(RealNetwork):
    """The network of this machine, with a count of the connections.

    Attributes:
        connections: All that were made.
        most: How many were open at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Connection] = []
        self.most = 0

    async def connect(self, address: SocketAddress) -> trio.abc.Stream:
        connection = await super().connect(address)
        assert isinstance(connection, Connection)
        self.connections.append(connection)
        self.most = max(self.most, self.open_now())
        return connection

    def open_now(self) -> int:
        return sum(each._connection.fileno() != -1 for each in self.connections)


@asynccontextmanager
async def listening(
    behave: Callable[[Hub, trio.abc.Stream], Awaitable[None]],
) -> AsyncIterator[int]:
    """Run a hub on a port of this machine."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await behave(Hub("hub2"), stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield int(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def test_over_a_socket_a_hub_says_who_it_is_and_hears_a_goodbye() -> None:
    network = CountingNetwork()
    over = trio.Event()
    read: list[Event] = []

    async def read_on(_hub: Hub, stream: trio.abc.Stream) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        while data := await stream.receive_some(4096):
            ws.receive_data(bytes(data))
            for event in ws.events():
                read.append(event)
                if isinstance(event, Request | TextMessage):
                    turn = UPGRADE if isinstance(event, Request) else INFO
                    await stream.send_all(b"".join(map(ws.send, turn)))
        over.set()

    with trio.fail_after(10):
        async with listening(read_on) as port:
            backend = msgspec.structs.replace(HUB2, port=port)
            outcome = (await Probe(network=network)(backend)).outcome
            await over.wait()
    assert isinstance(outcome, Answered)
    assert (outcome.name, outcome.version, outcome.schema_hash) == ("hub2", "1.0", HASH)
    assert isinstance(read[-1], CloseConnection)
    assert read[-1].code == 1000
    assert network.open_now() == 0


async def test_over_a_socket_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        backend = msgspec.structs.replace(HUB2, port=taken.getsockname()[1])
        outcome = (await Probe()(backend)).outcome
    assert outcome == Unanswered(reason="connect: connection refused")


async def test_a_connection_that_takes_too_long_fails_at_that_step() -> None:
    """Nobody accepts, and the queue of the listener is full."""
    outcomes = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        backend = msgspec.structs.replace(HUB2, port=listener.getsockname()[1])
        ask = Probe(timeout_seconds=0.2)

        async def note() -> None:
            outcomes.append((await ask(backend)).outcome)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(note)
    assert len(outcomes) == 8
    assert Unanswered(reason="connect: no answer within 0.2 s") in outcomes


async def test_the_prober_opens_no_more_sockets_than_slots_and_leaves_none(tmp_path: Path) -> None:
    network = CountingNetwork()
    enough = trio.Event()

    async def note(hub: Hub, stream: trio.abc.Stream) -> None:
        if len(network.connections) > 20:
            enough.set()
        await hang(hub, stream)

    async with (
        listening(note) as port,
        opened(tmp_path, network=network, probe_interval=15.0) as registry,
    ):
        registry.probe.slots = trio.Semaphore(4)
        registry.probe.timeout_seconds = 0.02
        for index in range(30):
            await registry.register(Register(name=f"hub{index}", host="127.0.0.1", port=port))
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(probe_forever, registry, interval=15.0))
            with trio.fail_after(10):
                await enough.wait()
            registry.probe.timeout_seconds = 600  # the last ones are cut off in the middle
            with trio.fail_after(10):
                while network.open_now() < 4:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert network.most == 4
    assert network.open_now() == 0


def test_authorities_that_cannot_be_read_are_reported_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="--probe-ca"):
        Probe(certificate_authorities=tmp_path / "missing.pem")
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(StartError, match="--probe-ca"):
        Probe(certificate_authorities=tmp_path / "empty.pem")
