"""Many probes driven by one task, against real sockets of this machine."""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)

from plexus_registry.health import batch_prober as volley_module
from plexus_registry.health.batch_prober import BatchProber, open_batch_prober
from plexus_registry.health.network import SocketAddress
from plexus_registry.health.probe import Probe
from plexus_registry.rules.backend import Register
from plexus_registry.rules.probe_results import Answered, Outcome, Unanswered, Unchecked, Untried
from plexus_registry.tasks.prober import probe_forever
from tests.fakes import opened
from tests.health.test_tracker import backend_of
from tests.memory_hubs import HASH, info_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from wsproto.events import Event

TIMEOUT = 5.0
SHORT = 0.2
PATIENCE = 10


def open_sockets() -> int:
    links = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(each.readlink()))
        except FileNotFoundError:  # the one that lists them
            continue
    return sum(link.startswith("socket:") for link in links)


@asynccontextmanager
async def hub(behave: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """Listen on a port, and treat whoever connects in some way."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await behave(stream)
        except (trio.BrokenResourceError, OSError):
            return

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield int(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def shooting(timeout_seconds: float = TIMEOUT) -> AsyncIterator[BatchProber]:
    with open_batch_prober(timeout_seconds=timeout_seconds) as batch_prober:
        assert batch_prober is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch_prober.run)
            yield batch_prober
            nursery.cancel_scope.cancel()


async def outcomes_of(batch_prober: BatchProber, ports: Sequence[int]) -> list[Outcome]:
    send, receive = trio.open_memory_channel[Outcome](len(ports))
    for port in ports:
        batch_prober.probe(SocketAddress(socket.AF_INET, "127.0.0.1", port), send.send_nowait)
    with trio.fail_after(PATIENCE):
        return [await receive.receive() for _ in ports]


async def outcome_of(
    behave: Callable[[trio.SocketStream], Awaitable[None]], timeout_seconds: float = TIMEOUT
) -> Outcome:
    async with hub(behave) as port, shooting(timeout_seconds) as batch_prober:
        (outcome,) = await outcomes_of(batch_prober, [port])
        return outcome


class Script:
    """A hub that answers each message of its peer with the events that are next."""

    def __init__(self, *turns: Sequence[Event], cuts: Sequence[int] = ()) -> None:
        self.turns = turns
        self.cuts = cuts

    async def __call__(self, stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ws = WSConnection(ConnectionType.SERVER)
        for turn in self.turns:
            await self.hear(ws, stream)
            await self.send(stream, b"".join(ws.send(event) for event in turn))
        await stream.send_eof()
        while await stream.receive_some():
            pass

    async def hear(self, ws: WSConnection, stream: trio.SocketStream) -> None:
        while not any(isinstance(each, Request | TextMessage) for each in ws.events()):
            ws.receive_data(bytes(await stream.receive_some()) or None)

    async def send(self, stream: trio.SocketStream, data: bytes) -> None:
        places = [0, *sorted({cut for cut in self.cuts if 0 < cut < len(data)}), len(data)]
        for start, end in pairwise(places):
            await stream.send_all(data[start:end])
            await trio.lowlevel.checkpoint()


def texts(*frames: str) -> list[Event]:
    return [TextMessage(each) for each in frames]


INFO = texts(*info_frames("hub2"))
NO_HASH = texts(*info_frames("hub2", schema_hash=""))
HASH_ITEM = texts(*(each.replace('"backend"', '"value"') for each in info_frames("a" * 16)))
ANSWER = Answered(name="hub2", version="1.0", schema_hash=HASH, latency_ms=0)


def timeless(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Answered):
        return msgspec.structs.replace(outcome, latency_ms=0)
    return outcome


async def hang(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def flood(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"x" * 4096)


async def hang_up_at_once(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.aclose()


async def test_a_hub_says_who_it_is() -> None:
    outcome = await outcome_of(Script([AcceptConnection()], INFO))
    assert timeless(outcome) == ANSWER
    assert isinstance(outcome, Answered)
    assert 0 <= outcome.latency_ms < TIMEOUT * 1000


async def test_a_hub_hears_a_goodbye() -> None:
    heard: list[Event] = []

    async def behave(stream: trio.SocketStream) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        while data := await stream.receive_some():
            ws.receive_data(bytes(data))
            for event in ws.events():
                heard.append(event)
                if isinstance(event, Request):
                    await stream.send_all(ws.send(AcceptConnection()))
                elif isinstance(event, TextMessage):
                    await stream.send_all(b"".join(map(ws.send, INFO)))
        over.set()

    over = trio.Event()
    async with hub(behave) as port, shooting() as batch_prober:
        await outcomes_of(batch_prober, [port])
        with trio.fail_after(PATIENCE):
            await over.wait()
    assert isinstance(heard[-1], CloseConnection)
    assert heard[-1].code == 1000


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (flood, "upgrade: it says more than 65536 bytes"),
        (hang_up_at_once, "upgrade: it hung up"),
        (Script([AcceptConnection()]), "_info: it hung up"),
        (Script([AcceptConnection()], texts("no JSON")), "_info: it says something that is no"),
        (Script([AcceptConnection()], [CloseConnection(code=1001)]), "_info: it closes the"),
    ],
)
async def test_a_hub_that_misbehaves_is_told_apart(
    behave: Callable[[trio.SocketStream], Awaitable[None]], reason: str
) -> None:
    outcome = await outcome_of(behave)
    assert isinstance(outcome, Unanswered)
    assert outcome.reason.startswith(reason)


async def test_a_hub_that_hangs_costs_no_more_than_the_timeout() -> None:
    outcome = await outcome_of(hang, SHORT)
    assert outcome == Unanswered(reason="upgrade: no answer within 0.2 s")


async def test_a_hub_that_hangs_up_once_it_said_its_name_is_there() -> None:
    outcome = await outcome_of(Script([AcceptConnection()], NO_HASH))
    assert timeless(outcome) == msgspec.structs.replace(ANSWER, schema_hash=None)


@pytest.mark.slow
async def test_a_hub_that_hangs_once_it_said_its_name_is_there() -> None:
    async def behave(stream: trio.SocketStream) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        script = Script()
        for turn in ([AcceptConnection()], NO_HASH):
            await script.hear(ws, stream)
            await script.send(stream, b"".join(map(ws.send, turn)))
        await hang(stream)

    outcome = await outcome_of(behave, 0.5)
    assert timeless(outcome) == msgspec.structs.replace(ANSWER, schema_hash=None)


async def test_a_hub_that_answers_too_late_does_not_answer() -> None:
    ended = trio.Event()

    async def behave(stream: trio.SocketStream) -> None:
        await ended.wait()
        await Script([AcceptConnection()], INFO)(stream)

    async with hub(behave) as port, shooting(SHORT) as batch_prober:
        (outcome,) = await outcomes_of(batch_prober, [port])
        ended.set()
        assert outcome == Unanswered(reason="upgrade: no answer within 0.2 s")


async def test_a_hub_that_wants_a_credential_cannot_be_checked() -> None:
    outcome = await outcome_of(Script([RejectConnection(status_code=401)]))
    assert outcome == Unchecked(
        reason="upgrade: it wants a credential: HTTP status 401", wants_credential=True
    )


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with shooting() as batch_prober:
            outcomes = await outcomes_of(batch_prober, [taken.getsockname()[1]] * 3)
    assert outcomes == [Unanswered(reason="connect: connection refused")] * 3


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENETUNREACH, Unanswered), (errno.EMFILE, Untried)]
)
async def test_a_connection_that_cannot_begin(
    number: int, kind: type[Unanswered | Untried], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_address: SocketAddress) -> socket.socket:
        raise OSError(number, "no")

    monkeypatch.setattr(volley_module, "_connecting", refuse)
    async with shooting() as batch_prober:
        (outcome,) = await outcomes_of(batch_prober, [1])
    assert isinstance(outcome, kind)
    assert outcome.reason.startswith("connect: ")


async def test_a_connection_that_takes_its_time() -> None:
    """The backlog is full, and then it is not."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        async with shooting(SHORT) as batch_prober:
            outcomes = await outcomes_of(batch_prober, [port] * 8)
    steps = {each.reason for each in outcomes if isinstance(each, Unanswered)}
    assert len(outcomes) == 8
    assert "connect: no answer within 0.2 s" in steps


async def test_cancellation_leaves_no_socket_open() -> None:
    async with hub(hang) as port:
        before = open_sockets()
        accepted = trio.Event()

        async def behave(stream: trio.SocketStream) -> None:
            accepted.set()
            await hang(stream)

        async with hub(behave) as other:
            async with shooting(60) as batch_prober:
                for each in (port, other):
                    batch_prober.probe(
                        SocketAddress(socket.AF_INET, "127.0.0.1", each), lambda _: None
                    )
                with trio.fail_after(PATIENCE):
                    await accepted.wait()
                assert open_sockets() >= before + 4
        with trio.fail_after(PATIENCE):
            while open_sockets() > before:
                await trio.lowlevel.checkpoint()


async def test_many_at_once_and_one_that_hangs_holds_nobody_up() -> None:
    async with hub(hang) as slow, hub(Script([AcceptConnection()], INFO)) as quick:
        async with shooting() as batch_prober:
            ended: list[Outcome] = []
            batch_prober.probe(SocketAddress(socket.AF_INET, "127.0.0.1", slow), ended.append)
            outcomes = await outcomes_of(batch_prober, [quick] * 60)
            assert ended == []
    assert [timeless(each) for each in outcomes] == [ANSWER] * 60


class Census:
    """Counts the sockets that probes have open."""

    def __init__(self) -> None:
        self.connect = volley_module._connecting
        self.made: list[socket.socket] = []
        self.most = 0

    def __call__(self, address: SocketAddress) -> socket.socket:
        self.made.append(self.connect(address))
        self.most = max(self.most, self.count())
        return self.made[-1]

    def count(self) -> int:
        return sum(each.fileno() != -1 for each in self.made)


async def test_the_prober_has_no_more_sockets_open_than_slots_and_none_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    census = Census()
    monkeypatch.setattr(volley_module, "_connecting", census)
    enough = trio.Event()

    async def behave(stream: trio.SocketStream) -> None:
        if len(census.made) > 20:
            enough.set()
        await hang(stream)

    async with hub(behave) as port, opened(tmp_path, probe_interval=15.0) as registry:
        for index in range(30):
            claim = Register(name=f"hub{index}", host="127.0.0.1", port=port)
            await registry.register(claim)
        async with trio.open_nursery() as nursery:
            ask = Probe(concurrency=4, timeout_seconds=0.02)
            await nursery.start(partial(probe_forever, registry, ask, interval=15.0))
            with trio.fail_after(PATIENCE):
                await enough.wait()
            nursery.cancel_scope.cancel()
    assert census.most == 4
    assert census.count() == 0


async def test_the_prober_goes_the_long_way_where_there_is_no_epoll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("select.epoll")
    asked = trio.Event()

    async def behave(stream: trio.SocketStream) -> None:
        asked.set()
        await hang(stream)

    async with hub(behave) as port, opened(tmp_path, probe_interval=15.0) as registry:
        await registry.register(Register(name="hub2", host="127.0.0.1", port=port))
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(probe_forever, registry, Probe(), interval=15.0))
            with trio.fail_after(PATIENCE):
                await asked.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("change", "is_direct"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, False),
        ({"protocol": "wss"}, False),
        ({"host": "169.254.1.1"}, False),
        ({"host": "::1%lo"}, False),
        ({"port": 0}, False),
    ],
)
def test_only_a_plain_numeric_address_that_may_be_asked_is_direct(
    change: dict[str, object], is_direct: bool
) -> None:
    backend = msgspec.structs.replace(backend_of("hub2", host="127.0.0.1"), **change)
    address = Probe().direct_address(backend)
    assert (address is not None) is is_direct


SCRIPTS: dict[str, tuple[Sequence[Event], ...]] = {
    "answer": ([AcceptConnection()], INFO),
    "ping first": ([AcceptConnection(), Ping(b"?")], INFO),
    "a hash that is asked for": ([AcceptConnection()], NO_HASH, HASH_ITEM),
    "no hash": ([AcceptConnection()], NO_HASH),
    "another name": ([AcceptConnection()], texts(*info_frames("hub3"))),
    "no name": ([AcceptConnection()], texts(*info_frames(""))),
    "a credential": ([RejectConnection(status_code=403)],),
    "not found": ([RejectConnection(status_code=404)],),
    "nothing": (),
    "no _info": ([AcceptConnection()],),
    "no JSON": ([AcceptConnection()], texts("{")),
    "closes": ([AcceptConnection()], [CloseConnection(code=1001)]),
}


@pytest.mark.parametrize("script", SCRIPTS)
@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.integers(1, 500), max_size=6))
def test_a_volley_and_a_single_probe_agree(script: str, cuts: list[int]) -> None:
    trio.run(agree, SCRIPTS[script], cuts)


@pytest.mark.parametrize("script", ["answer", "a hash that is asked for"])
def test_they_agree_byte_by_byte(script: str) -> None:
    trio.run(agree, SCRIPTS[script], range(1000))


async def agree(turns: Sequence[Sequence[Event]], cuts: Sequence[int]) -> None:
    async with hub(Script(*turns, cuts=cuts)) as port, shooting(5) as batch_prober:
        (ours,) = await outcomes_of(batch_prober, [port])
        backend = msgspec.structs.replace(backend_of("hub2", host="127.0.0.1"), port=port)
        theirs = await Probe(timeout_seconds=5)(backend)
    assert timeless(ours) == timeless(theirs.outcome)
