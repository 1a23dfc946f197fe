"""The scripted peers themselves: content with a hub that keeps the protocol, and with no other.

The habits of the real clients are here too, request by request, as section 7 of the wire
protocol writes them down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.peers import gamma, rust_hub, synapse
from tests.e2e.peers.breaches import BREACHES, CALL, HUB, Breach
from tests.e2e.peers.edits import frames_in_order, instead, put
from tests.e2e.peers.fake_hub import FakeHub, running_fake
from tests.e2e.peers.frames import ViolationError
from tests.e2e.peers.websocket import PATIENCE_SECONDS, RefusedError, StreamFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SHORT_PATIENCE = 0.2
LIMIT_SECONDS = 10


async def _synapse(fake: FakeHub, patience: float = PATIENCE_SECONDS) -> None:
    """Everything that Synapse does, at one hub."""
    fake.backends.setdefault(HUB, fake.entry(HUB))
    command = synapse.Synapse(
        port=fake.port, main_port=fake.port, info_seconds=patience, patience=patience
    )
    async with synapse.running(command) as run:
        await synapse.browse(run, "registry", "get", name=HUB)
        assert await synapse.browse(run, "registry", "get") is None, "help, not a call"
        await synapse.show_schema(run, "registry", "list")
        with pytest.raises(StreamFailedError):
            await synapse.call(run, "registry.nope")
        listed = await synapse.list_backends(run)
        assert [entry.answered for entry in listed] == [HUB]
        assert await synapse.resolve(run, "nobody") is None
        assert await synapse.resolve(run, HUB) is not None


async def _gamma(fake: FakeHub, patience: float = PATIENCE_SECONDS) -> None:
    """Everything that plexus-gamma does, at one hub."""
    fake.backends.setdefault(HUB, fake.entry(HUB))
    assert await gamma.scan("127.0.0.1", [fake.port]) == {fake.port: HUB}
    async with gamma.open_session("127.0.0.1", fake.port, HUB, patience=patience) as session:
        tree = await gamma.load_tree(session)
        assert await gamma.poll_hash(session) == tree.hub.hash
        assert await gamma.discover(session, tree) == {HUB: f"ws://127.0.0.1:{fake.port}"}
        with pytest.raises(StreamFailedError):
            await gamma.call(session, "registry.nope", {})


async def _rust(fake: FakeHub, patience: float = PATIENCE_SECONDS) -> None:
    """Everything that a self-registering hub does."""
    hub = rust_hub.RustHub(
        name="lforge", port=46011, registry_port=fake.port, patience=patience, pause_seconds=0
    )
    await rust_hub.register(hub)
    await rust_hub.say_goodbye(hub)


PEERS: dict[str, Callable[[FakeHub, float], Awaitable[None]]] = {
    "synapse": _synapse,
    "gamma": _gamma,
    "rust": _rust,
}
CALLS = {"synapse": "registry.get", "gamma": "registry.list", "rust": "registry.register"}
"""For each peer one call through the hub that it makes, with one data item and `done`."""


@pytest.mark.parametrize("peer", PEERS)
async def test_peer_is_content_with_what_keeps_the_protocol(peer: str) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB) as fake:
            await PEERS[peer](fake, PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("breach", "peer"),
    [
        pytest.param(breach, peer, id=f"{peer}-{breach.name}")
        for breach in BREACHES
        for peer in breach.peers
    ],
)
async def test_peer_notices_a_breach(breach: Breach, peer: str) -> None:
    method = CALLS[peer] if breach.method == CALL else breach.method
    # Impatient only where waiting in vain is the point: a slow machine is no breach.
    patience = SHORT_PATIENCE if breach.message.endswith("within") else PATIENCE_SECONDS
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB, {method: breach.edit}) as fake:
            with pytest.raises(ViolationError, match=breach.message):
                await PEERS[peer](fake, patience)


def sent(fake: FakeHub) -> list[tuple[object, object, object]]:
    """What a fake was asked: id, method and params."""
    return [(each["id"], each["method"], each.get("params", "absent")) for each in fake.requests]


async def test_synapse_asks_in_its_own_words() -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake("registry-hub") as registry, running_fake("lforge") as hub:
            here = synapse.Synapse(port=registry.port, main_port=registry.port)
            async with synapse.running(here) as run:
                await synapse.browse(run, "registry", "list")
                await synapse.show_schema(run, "registry", "list")
            there = synapse.Synapse(port=hub.port, main_port=registry.port)
            async with synapse.running(there) as run:
                await synapse.list_backends(run)
    lforge = {"name": "lforge", "host": "127.0.0.1", "port": hub.port, "protocol": "ws"}
    call = "registry-hub.call"
    assert sent(registry) == [
        (1, "_info", None),
        (2, call, {"method": "registry-hub.schema"}),
        (3, call, {"method": "registry.schema"}),
        (4, call, {"method": "registry.schema"}),
        (5, call, {"method": "registry.schema"}),
        (6, call, {"method": "registry.list", "params": {"active_only": None}}),
        (7, call, {"method": "registry.schema", "params": {"method": "list"}}),
        (1, "_info", None),
        (2, call, {"method": "registry.register", "params": lforge}),
    ]
    assert sent(hub) == [
        (1, "_info", None),
        (2, "lforge.call", {"method": "registry.list", "params": {}}),
    ]


async def test_gamma_asks_in_its_own_words() -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB) as fake:
            await gamma.scan("127.0.0.1", [fake.port])
            async with gamma.open_session("127.0.0.1", fake.port, HUB) as session:
                await gamma.discover(session, await gamma.load_tree(session))
                await gamma.poll_hash(session)
    call = f"{HUB}.call"
    assert sent(fake) == [
        (1, "_info", []),
        (1, call, {"method": f"{HUB}.schema", "params": {}}),
        (2, call, {"method": "registry.schema", "params": {}}),
        (3, call, {"method": "registry.list", "params": {"active_only": True}}),
        (4, call, {"method": f"{HUB}.hash", "params": {}}),
    ]


async def test_rust_hub_asks_in_its_own_words() -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB) as fake:
            await _rust(fake)
    call = f"{HUB}.call"
    params = {
        "name": "lforge",
        "host": "127.0.0.1",
        "port": 46011,
        "protocol": "ws",
        "version": "1.0.0",
        "metadata": {"pid": 4242, "schema_hash": "9c1d0e5b7a32f468"},
        "source": "auto",
    }
    assert sent(fake) == [
        (0, "_info", {}),
        (1, "_info_unsub", [1]),
        (2, call, {"method": "registry.register", "params": params}),
        (3, f"{call}_unsub", [3]),
        (0, "_info", {}),
        (1, "_info_unsub", [1]),
        (2, call, {"method": "registry.deregister", "params": {"name": "lforge"}}),
        (3, f"{call}_unsub", [3]),
    ]


async def test_rust_hub_tries_three_times() -> None:
    """The original refuses a name that it has: a hub that restarts there gives up."""
    taken = {"type": "error", "message": "UNIQUE constraint failed: backends.name"}
    edits = {"registry.register": put("1.params.result.content", taken)}
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB, edits) as fake:
            with pytest.raises(rust_hub.NotRegisteredError, match="UNIQUE"):
                await _rust(fake)
    assert [ask for ask in sent(fake) if ask[1] == "_info"] == [(0, "_info", {})] * 3


async def test_gamma_takes_nobody_for_a_hub_whose_done_comes_first() -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB, {"_info": frames_in_order(0, 2)}) as fake:
            assert await gamma.scan("127.0.0.1", [fake.port]) == {}


async def test_gamma_rejects_a_call_that_is_refused() -> None:
    refusal = {"code": -32602, "message": "Invalid params"}
    edits = {f"{HUB}.hash": instead({"jsonrpc": "2.0", "id": 1, "error": refusal})}
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB, edits) as fake:
            async with gamma.open_session("127.0.0.1", fake.port, HUB) as session:
                with pytest.raises(RefusedError, match="Invalid params"):
                    await gamma.poll_hash(session)


async def test_synapse_gives_a_silent_hub_300_ms() -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB, {"_info": frames_in_order()}) as fake:
            start = trio.current_time()
            assert await synapse.probe("127.0.0.1", fake.port) is None
            assert trio.current_time() - start >= 0.25


async def test_synapse_finds_another_hub_at_the_address() -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with running_fake(HUB) as fake:
            fake.backends["lforge"] = fake.entry("lforge")
            command = synapse.Synapse(port=fake.port, main_port=fake.port)
            async with synapse.running(command) as run:
                with pytest.raises(ViolationError, match="Backend mismatch"):
                    await synapse.resolve(run, "lforge")
