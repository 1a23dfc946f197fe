"""A real registry and real hubs on real sockets: who is alive, and who is found out."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from tests.e2e.harness import Peer, ServerProcess, dial, eventually, running_registry
from tests.memory_hubs import Hub, answer, answer_after, hang, hang_up, talk_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 40
HOST = "127.0.0.1"
OTHER_HOST = "127.0.0.2"
INTERVAL = 0.5
LATE_SECONDS = 0.5
PROBING = ("--no-auto-register", f"--probe-interval={INTERVAL}", "--probe-failures=3")


@asynccontextmanager
async def probing_registry(folder: Path, *options: str) -> AsyncIterator[ServerProcess]:
    async with running_registry(folder, *PROBING, *options) as server:
        yield server


@asynccontextmanager
async def real_hub(folder: Path, name: str) -> AsyncIterator[ServerProcess]:
    """A process that is a Plexus hub: another registry, under another name."""
    await trio.Path(folder).mkdir()
    async with running_registry(folder, "--no-auto-register", f"--hub-namespace={name}") as hub:
        yield hub


@asynccontextmanager
async def listening(
    hub: Hub, tls: ssl.SSLContext | None = None, *, host: str = HOST
) -> AsyncIterator[int]:
    """Serve a scripted hub on a real port."""

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            await (hub.behave or answer)(hub, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(stream)

    async def secure(stream: trio.SocketStream) -> None:
        await serve(stream if tls is None else trio.SSLStream(stream, tls, server_side=True))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, secure, 0, host=host))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def health(peer: Peer, name: str) -> dict[str, object]:
    backend = await peer.get(name) or {}
    known = backend.get("health")
    return known if isinstance(known, dict) else {}


async def is_in_state(peer: Peer, name: str, state: str) -> bool:
    return (await health(peer, name)).get("state") == state


def counted(name: str) -> Hub:
    """A hub that notes when it is probed."""

    async def note(hub: Hub, stream: trio.abc.Stream) -> None:
        hub.asked.append(trio.current_time())
        await answer(hub, stream)

    return Hub(name, behave=note)


async def rounds(witness: Hub, *, count: int = 3) -> None:
    """Wait until a backend was probed so often: the others had their turn as often."""
    seen = len(witness.asked)
    await eventually(lambda: len(witness.asked) >= seen + count)


async def test_a_killed_hub_leaves_the_list_and_is_back_a_second_after_its_restart(
    tmp_path: Path,
) -> None:
    with trio.fail_after(LIMIT_SECONDS):
        async with probing_registry(tmp_path) as server, dial(server.url) as peer:
            async with real_hub(tmp_path / "first", "hub7") as hub:
                await register_itself(peer, hub)
                await eventually(lambda: is_in_state(peer, "hub7", "up"))
                backend = await peer.get("hub7") or {}
                assert backend["version"] != "of its own", "the hub says it better"
                await hub.kill()

                async def is_gone() -> bool:
                    return "hub7" not in await peer.names(active_only=True)

                await eventually(is_gone)
                reason = str((await health(peer, "hub7"))["reason"])
                assert reason.endswith("connect: connection refused")
            async with real_hub(tmp_path / "second", "hub7") as hub:
                await register_itself(peer, hub)
                await eventually(lambda: is_in_state(peer, "hub7", "up"))
                assert await peer.names(active_only=True) == ["hub7"]


async def register_itself(peer: Peer, hub: ServerProcess) -> None:
    await peer.call(
        "registry.register",
        name="hub7",
        host=HOST,
        port=hub.port,
        version="of its own",
        source="auto",
    )


async def test_a_third_party_cannot_say_goodbye_for_a_hub_that_is_there(tmp_path: Path) -> None:
    witness = counted("witness")
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            probing_registry(tmp_path) as server,
            dial(server.url) as peer,
            real_hub(tmp_path / "hub", "hub7") as hub,
            listening(witness) as port,
        ):
            await peer.call("registry.register", name="witness", host=HOST, port=port)
            await register_itself(peer, hub)
            await eventually(lambda: is_in_state(peer, "hub7", "up"))
            await peer.call("registry.deregister", name="hub7")
            await eventually(lambda: is_in_state(peer, "hub7", "up"))
            await hub.stop()
            await peer.call("registry.deregister", name="hub7")
            assert await peer.names(active_only=True) == ["witness"]
            await rounds(witness)
            assert await is_in_state(peer, "hub7", "deregistered")


async def test_odd_hubs_are_found_out(tmp_path: Path) -> None:
    behaviours = {
        "hangs": Hub("hangs", behave=hang),
        "talks": Hub("talks", behave=talk_on),
        "leaves": Hub("leaves", behave=hang_up),
        "lies": Hub("somebody"),
        "late": Hub("late", behave=answer_after(LATE_SECONDS)),
        "well": Hub("well"),
    }
    reasons = {
        "hangs": "upgrade: no answer within 2 s",
        "talks": "upgrade: no answer within 2 s",
        "leaves": "upgrade: it hung up",
        "lies": 'it answers as "somebody", not as "lies"',
    }
    with trio.fail_after(LIMIT_SECONDS):
        async with probing_registry(tmp_path) as server, dial(server.url) as peer:
            async with trio.open_nursery() as nursery:
                for name, hub in behaviours.items():
                    port = await nursery.start(_keep_listening, hub)
                    await peer.call("registry.register", name=name, host=HOST, port=port)
                await eventually(lambda: is_in_state(peer, "well", "up"))
                await eventually(lambda: is_in_state(peer, "lies", "wrong_hub"))
                for name in ("hangs", "talks", "leaves"):
                    await eventually(partial(is_in_state, peer, name, "down"))
                for name, reason in reasons.items():
                    assert reason in str((await health(peer, name))["reason"])
                await eventually(lambda: is_in_state(peer, "late", "up"))
                latency = (await health(peer, "late"))["latency_ms"]
                assert isinstance(latency, float)
                assert latency >= LATE_SECONDS * 1000
                assert await peer.names(active_only=True) == ["late", "well"]
                nursery.cancel_scope.cancel()
        assert "Traceback" not in server.log


async def _keep_listening(
    hub: Hub, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    async with listening(hub) as port:
        task_status.started(port)
        await trio.sleep_forever()


async def test_a_certificate_is_checked_and_a_private_authority_can_be_named(
    tmp_path: Path,
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            probing_registry(tmp_path, f"--probe-ca={tmp_path / 'authority.pem'}") as server,
            dial(server.url) as peer,
            listening(Hub("good"), _tls(authority, HOST)) as good,
            listening(Hub("bad"), _tls(stranger, HOST)) as bad,
            listening(Hub("other"), _tls(authority, "elsewhere.example")) as other,
        ):
            for name, port in (("good", good), ("bad", bad), ("other", other)):
                await peer.call(
                    "registry.register", name=name, host=HOST, port=port, protocol="wss"
                )
            await eventually(lambda: is_in_state(peer, "good", "up"))
            for name in ("bad", "other"):
                await eventually(partial(is_in_state, peer, name, "down"))
                reason = str((await health(peer, name))["reason"])
                assert "connect: its certificate is not trusted" in reason


def _tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_whoever_watches_is_told_of_states_and_of_a_new_surface(tmp_path: Path) -> None:
    hub = Hub("hub")
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            probing_registry(tmp_path) as server,
            dial(server.url) as peer,
            dial(server.url) as watcher,
        ):
            await watcher.ask("registry.watch", name="hub")
            assert (await next_event(watcher))["type"] == "snapshot"
            async with listening(hub) as port:
                await peer.call("registry.register", name="hub", host=HOST, port=port)
                assert (await next_event(watcher))["type"] == "backend_registered"
                told = await next_event(watcher)
                assert (told["type"], state_in(told)) == ("backend_updated", "up")
                hub.schema_hash = "aaaaaaaaaaaaaaaa"
                told = await next_event(watcher)
                assert told["type"] == "backend_updated"
                assert health_in(told)["schema_hash"] == "aaaaaaaaaaaaaaaa"
            told = await next_event(watcher)
            assert (told["type"], state_in(told)) == ("backend_stale", "down")


async def next_event(peer: Peer) -> dict[str, object]:
    message = await peer.receive()
    assert isinstance(message, dict)
    event = message["params"]["result"]
    assert isinstance(event, dict)
    return event


def health_in(event: dict[str, object]) -> dict[str, object]:
    backend = event["backend"]
    assert isinstance(backend, dict)
    known = backend["health"]
    assert isinstance(known, dict)
    return known


def state_in(event: dict[str, object]) -> object:
    return health_in(event)["state"]


async def test_networks_that_are_not_probed_are_left_alone(tmp_path: Path) -> None:
    hub, witness = counted("hub"), counted("witness")
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            probing_registry(tmp_path, f"--probe-networks={OTHER_HOST}/32") as server,
            dial(server.url) as peer,
            listening(hub) as port,
            listening(witness, host=OTHER_HOST) as other_port,
        ):
            await peer.call("registry.register", name="hub", host=HOST, port=port)
            await peer.call("registry.register", name="witness", host=OTHER_HOST, port=other_port)
            await rounds(witness)
            assert await is_in_state(peer, "hub", "unknown")
            assert "hub" in await peer.names(active_only=True)
            assert hub.asked == []
            checked = await peer.call("registry.check", name="hub")
            assert checked["ok"] is False
            assert "in none of the networks" in str(checked["steps"])
