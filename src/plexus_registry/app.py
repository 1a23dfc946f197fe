"""The composition root: builds the parts, and keeps them running in one nursery."""

from __future__ import annotations

import gc
import logging
import signal
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from plexus_registry import __version__
from plexus_registry.concurrency import RunSync, lone_error, run_in_thread
from plexus_registry.config.declarations import parse_environment
from plexus_registry.config.file import ConfigFile
from plexus_registry.health.allowed_networks import parse_networks
from plexus_registry.health.probe import Probe
from plexus_registry.health.tracker import Policy
from plexus_registry.registry import Registry, WallClock, wall_clock
from plexus_registry.rpc.plexus import Hub
from plexus_registry.rules.backend import Layer
from plexus_registry.rules.change_log import KEPT_CHANGES
from plexus_registry.rules.errors import ConfigError, MethodError, StartError, StorageFailed
from plexus_registry.rules.local_hub import LOCAL_HUB, declared_at_start
from plexus_registry.server.build import build_server, open_certificate, raise_open_files
from plexus_registry.server.connection import serve_connection
from plexus_registry.server.listener import is_reachable, open_listeners, url_of
from plexus_registry.server.server import serve_connections
from plexus_registry.server.shutdown import Shutdown
from plexus_registry.server.token_file import MIN_TOKEN
from plexus_registry.storage.opening import open_store
from plexus_registry.tasks.config_watch import watch_config_forever, watch_config_once
from plexus_registry.tasks.prober import probe_forever
from plexus_registry.tasks.sweeper import repair_forever, sweep_forever, write_pings_forever

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from plexus_registry.health.network import Network
    from plexus_registry.rules.backend import Declaration
    from plexus_registry.server.tls import Certificate
    from plexus_registry.settings import Settings

log = logging.getLogger(__name__)

FULL_COLLECTION_THRESHOLD = 5_000
"""So many collections of the middle generation come before a full one; Python's default is 10."""


@asynccontextmanager
async def open_registry(
    settings: Settings,
    *,
    now: WallClock = wall_clock,
    run_sync: RunSync = run_in_thread,
    kept_changes: int = KEPT_CHANGES,
    network: Network | None = None,
) -> AsyncIterator[Registry]:
    """Open a registry on its database, with what file, environment and defaults declare.

    It answers its verbs at once; `serve` lets others ask, watches the config file and looks
    after health. Pings that wait for the disk are written at the end.

    Args:
        settings: Where everything is.
        now: The clock whose times are stored.
        run_sync: How blocking work is run.
        kept_changes: How many changes a watch can be behind.
        network: How backends are reached for a probe; by default over this machine's network.

    Raises:
        StartError: The database cannot be used, or a setting is malformed.
    """
    try:
        from_environment = parse_environment(settings.env_backends).backends
        networks = parse_networks(settings.probe_networks)
    except ConfigError as error:
        raise StartError(str(error)) from error
    probe = Probe(
        timeout_seconds=settings.probe_timeout,
        concurrency=settings.probe_concurrency,
        networks=networks,
        certificate_authorities=settings.probe_ca,
        network=network,
    )
    policy = Policy(
        stale_after=settings.stale_after,
        probe_interval=settings.probe_interval,
        probe_failures=settings.probe_failures,
        probe_timeout=settings.probe_timeout,
    )
    opening = open_store(
        settings.db_path,
        run_sync=run_sync,
        kept_changes=kept_changes,
        start_empty=settings.start_empty,
    )
    async with opening as store:
        config = ConfigFile(settings.config_path, run_sync=run_sync, now=now)
        registry = Registry(store, config, probe=probe, policy=policy, now=now)
        try:
            await registry.declare(Layer.ENV, from_environment)
            await registry.declare(Layer.AUTO, _local_hub(registry, settings))
            await watch_config_once(registry, config)
        except StorageFailed as error:
            raise StartError(f"cannot write database {settings.db_path}: {error.reason}") from error
        try:
            yield registry
        finally:
            with trio.CancelScope(shield=True):
                await _write_last(registry)


def _local_hub(registry: Registry, settings: Settings) -> dict[str, Declaration]:
    if not settings.states_local_hub:
        return {}
    if registry.health.probes:
        return declared_at_start(registry.catalog)
    return {LOCAL_HUB.name: LOCAL_HUB}  # nobody would see that its other name is gone


async def _write_last(registry: Registry) -> None:
    try:
        await registry.pings.write()
    except StorageFailed as error:
        log.error("the last pings are lost: %s", error)  # noqa: TRY400 - the cause is said
    try:
        await registry.commits.repair()
    except StorageFailed as error:
        log.error(  # noqa: TRY400 - the cause is said
            "the database could not be repaired, so a refused change whose outcome was unknown"
            " can show after the next start: %s",
            error.reason,
        )


async def serve(
    registry: Registry,
    settings: Settings,
    *,
    shutdown: Shutdown | None = None,
    certificate: Certificate | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a registry until it is cancelled or drained.

    Args:
        registry: What `open_registry` opened.
        settings: The same settings.
        shutdown: Begin it to stop gently; cancel to stop at once. Nothing acknowledged is lost
            either way.
        certificate: What connections are secured with; the settings name its files if not given.
        task_status: Started with the URL once the port is bound and everything runs.

    Raises:
        StartError: The port cannot be bound, or not as safely as the settings ask for; or a token
            is too short.
    """
    shutdown = shutdown or Shutdown()
    certificate = certificate or open_certificate(settings)
    for token in (settings.token, settings.read_token):
        if token is not None and len(token) < MIN_TOKEN:
            raise StartError(f"a token has fewer than {MIN_TOKEN} characters: choose a longer one")
    mechanisms = _mechanisms(settings)
    hub = Hub(settings.hub_namespace, limits=settings.limits, mechanisms=mechanisms)
    tasks: dict[str, Task] = {
        "config watch": partial(
            watch_config_forever, registry, registry.config, every=settings.poll_interval
        ),
        "sweeper": partial(sweep_forever, registry, every=settings.sweep_interval),
        "ping writer": partial(write_pings_forever, registry),
        "storage repair": partial(repair_forever, registry),
    }
    if settings.probe_interval > 0:
        tasks["prober"] = partial(probe_forever, registry, interval=settings.probe_interval)
    async with _open_port(settings) as listeners, trio.open_nursery() as nursery:
        server = build_server(
            registry,
            settings,
            serve_connection=lambda ws: serve_connection(registry, hub, ws, shutdown),
            shutdown=shutdown,
            url=url_of(listeners[0], is_secure=certificate is not None),
            certificate=certificate,
        )

        async def serve_to_the_end_of_shutdown(task_status: trio.TaskStatus[str]) -> None:
            with _fatal("acceptor"):
                await serve_connections(server, listeners, task_status=task_status)
            nursery.cancel_scope.cancel()

        # The port is bound already: a client that comes meanwhile waits to be accepted.
        for name, task in tasks.items():
            await nursery.start(_supervised, name, task)
        task_status.started(await nursery.start(serve_to_the_end_of_shutdown))


@asynccontextmanager
async def _open_port(settings: Settings) -> AsyncIterator[list[trio.SocketListener]]:
    """Bind the port, if that is as safe as the settings ask for; close it at the end."""
    listeners = await open_listeners(settings.host, settings.port)
    try:
        if is_reachable(listeners) and not (settings.token or settings.insecure):
            raise StartError(_EXPOSED.format(host=settings.host))
        if is_reachable(listeners) and settings.token and not settings.tls_cert:
            log.warning(_IN_CLEAR, settings.host)
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


def _mechanisms(settings: Settings) -> tuple[dict[str, str], ...]:
    """List how clients may identify themselves."""
    if settings.token is None:
        return ()
    bearer = {"kind": "bearer", "header": "Authorization"}
    return ({"kind": "anonymous"}, bearer) if settings.public_reads else (bearer,)


_IN_CLEAR = (
    "listening on %s without TLS: whoever is on the network between can read the token; give"
    " --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that speaks TLS"
)
_EXPOSED = (
    "listening on {host} lets everybody who reaches it register and delete: set a token"
    " (--token-file or REGISTRY_TOKEN), listen on 127.0.0.1, or say --insecure"
)


class Task(Protocol):
    """A task that says when its promise holds, and then runs until it is cancelled."""

    def __call__(self, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]:
        """Run it."""
        ...


async def _supervised(
    name: str,
    task: Task,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    with _fatal(name):
        await task(task_status=task_status)


@contextmanager
def _fatal(name: str) -> Iterator[None]:
    """Say which task it was that brings the process down."""
    try:
        yield
    except Exception:
        log.critical("the %s crashed; the registry stops", name, exc_info=True)
        raise


async def run(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Run a registry as a process does: until SIGINT or SIGTERM, and then gently to an end.

    A second signal stops it at once; what was acknowledged is on the disk either way. SIGHUP has it
    read the config file and the certificate again. SIGINT is received once it is ready; until then
    it does what it does in the calling process.

    Args:
        settings: All of them.
        say: Is given the line that says where everything is, once it is ready.

    Raises:
        StartError: It cannot start.
    """
    shutdown = Shutdown()
    certificate = open_certificate(settings)
    room = raise_open_files(settings.max_connections)
    settings = replace(settings, max_connections=room)
    with lone_error(), ExitStack() as receivers:
        receive = trio.open_signal_receiver
        signals = receivers.enter_context(receive(signal.SIGTERM, signal.SIGHUP))
        async with open_registry(settings) as registry, trio.open_nursery() as nursery:

            async def serve_to_the_end(task_status: trio.TaskStatus[str]) -> None:
                await serve(
                    registry,
                    settings,
                    shutdown=shutdown,
                    certificate=certificate,
                    task_status=task_status,
                )
                nursery.cancel_scope.cancel()

            async def obey(signals: AsyncIterator[int]) -> None:
                async for number in signals:
                    if number == signal.SIGHUP:
                        nursery.start_soon(reload_files, registry, certificate)
                        continue
                    if shutdown.begun.is_set():
                        nursery.cancel_scope.cancel()
                    log.info("stopping: running requests may finish")
                    shutdown.begin()

            url = await nursery.start(serve_to_the_end)
            # It is held by the outer stack, until the last pings are written.
            interrupts = receivers.enter_context(receive(signal.SIGINT))
            nursery.start_soon(obey, interrupts)
            collect_garbage_seldom()
            say(start_up_line(url, settings, registry))
            await obey(signals)


def collect_garbage_seldom() -> None:
    """Have full garbage collections of this process be rare; for a process that only serves.

    A full collection looks at every object, with 5,000 connections for half a second, in which
    nobody is answered. It would free nothing: connections, requests and changes leave no cycles.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_THRESHOLD)


async def reload_files(registry: Registry, certificate: Certificate | None) -> None:
    """Read config file and certificate again; what is invalid is logged, and what was stays."""
    if certificate is not None:
        try:
            await trio.to_thread.run_sync(certificate.reload)
        except StartError as error:
            log.error("certificate kept as it was: %s", error)  # noqa: TRY400 - the cause is said
        else:
            log.info("certificate read again")
    try:
        report = await registry.reload()
    except MethodError as error:
        log.error("%s", error)  # noqa: TRY400 - the cause is said
    else:
        log.info("config file read again: %d backends", report.count)


def start_up_line(url: str, settings: Settings, registry: Registry) -> str:
    """Say where everything is and what is known at the start."""
    sources = Counter(backend.source for backend in registry.list(active_only=False))
    known = ", ".join(f"{count} {source}" for source, count in sorted(sources.items()))
    return (
        f"trio-registry {__version__} ready at {url}"
        f" (database {settings.db_path}, config {settings.config_path},"
        f" {sources.total()} backends{': ' + known if known else ''})"
    )
