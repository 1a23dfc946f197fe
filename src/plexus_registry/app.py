"""The composition root: builds the parts, and keeps them running in one nursery.

Theory of operation. `run` is the whole process: it handles signals around `open_registry` and
`serve`. `open_registry` opens the database and declares the backends of the environment, the
defaults and the config file. `serve` binds the port and opens the nursery, which holds:

- the server, in the body, with one task for each connection;
- the tasks beside it: config watch, sweeper, ping writer, storage repair, and prober.

Everything stops in the opposite order. SIGINT or SIGTERM begins the shutdown: the server finishes
the current requests and returns, and `serve` then cancels the other tasks. At the end,
`open_registry` writes the last pings and closes the database. A second signal cancels `serve` at
once. If a task crashes, the log names it, the nursery cancels the others, and the process ends.
"""

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
from plexus_registry.health.network import parse_networks
from plexus_registry.health.probe import Probe
from plexus_registry.health.tracker import Policy
from plexus_registry.registry import Registry, WallClock, wall_clock, wall_clock_ms
from plexus_registry.rpc.plexus import Hub
from plexus_registry.rules.backend import Layer
from plexus_registry.rules.errors import ConfigError, MethodError, StartError, StorageFailed
from plexus_registry.rules.events import Cause, Origin
from plexus_registry.rules.reconciliation import LOCAL_HUB, declared_at_start
from plexus_registry.server.handshake import Shutdown
from plexus_registry.server.listener import (
    open_certificate,
    open_port,
    raise_open_files,
    url_of,
)
from plexus_registry.server.server import Server
from plexus_registry.settings import MIN_TOKEN, Settings
from plexus_registry.storage.opening import open_store
from plexus_registry.tasks.periodic import (
    repair_forever,
    sweep_forever,
    watch_config_forever,
    watch_config_once,
    write_pings_forever,
)
from plexus_registry.tasks.prober import probe_forever

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from plexus_registry.health.network import Network
    from plexus_registry.rules.backend import Declaration
    from plexus_registry.server.listener import Certificate

log = logging.getLogger(__name__)

FULL_COLLECTION_THRESHOLD = 5_000
"""The number of middle collections before a full garbage collection; Python's default is 10."""


@asynccontextmanager
async def open_registry(
    settings: Settings,
    *,
    now: WallClock = wall_clock,
    run_sync: RunSync = run_in_thread,
    now_ms: WallClock = wall_clock_ms,
    network: Network | None = None,
) -> AsyncIterator[Registry]:
    """Open a registry on its database, and declare the backends of environment and config file.

    Its verbs can be called at once. `serve` opens the port, watches the config file and probes
    the backends. Pings that are not on the disk yet are written at the end.

    Args:
        settings: The paths, the declared backends, and the settings of the health checks.
        now: The clock for the times that are stored.
        run_sync: Runs blocking work.
        now_ms: The clock for the history, in Unix milliseconds.
        network: The network for the probes; by default that of this machine.

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
        kept_changes=settings.keep_changes,
        start_empty=settings.start_empty,
    )
    async with opening as store:
        config = ConfigFile(settings.config_path, run_sync=run_sync, now=now)
        registry = Registry(store, config, probe=probe, policy=policy, now=now, now_ms=now_ms)
        try:
            await registry.declare(Layer.ENV, from_environment)
            await registry.declare(Layer.AUTO, _local_hub(registry, settings))
            await watch_config_once(registry)
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
    # Without probes, nobody would notice that another name of the hub is gone.
    return {LOCAL_HUB.name: LOCAL_HUB}


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
    """Serve a registry until it is cancelled or its shutdown has ended.

    Args:
        registry: A registry that `open_registry` opened.
        settings: The settings that it was opened with.
        shutdown: Begin it to stop gently; cancel to stop at once. No acknowledged change is lost
            either way.
        certificate: The certificate for TLS; by default, it is read from the files of the settings.
        task_status: Started with the URL when the port accepts connections and all tasks run.

    Raises:
        StartError: The port cannot be bound, other machines can reach it and there is no token, or
            a token is too short.
    """
    shutdown = shutdown or Shutdown()
    certificate = certificate or open_certificate(settings)
    for token in (settings.token, settings.read_token):
        if token is not None and len(token) < MIN_TOKEN:
            raise StartError(f"a token has fewer than {MIN_TOKEN} characters: choose a longer one")
    hub = Hub(
        settings.hub_namespace, limits=settings.limits, mechanisms=_login_mechanisms(settings)
    )
    tasks: dict[str, Task] = {
        "config watch": partial(watch_config_forever, registry, every=settings.poll_interval),
        "sweeper": partial(sweep_forever, registry, every=settings.sweep_interval),
        "ping writer": partial(write_pings_forever, registry),
        "storage repair": partial(repair_forever, registry),
    }
    if settings.probe_interval > 0:
        tasks["prober"] = partial(probe_forever, registry, interval=settings.probe_interval)
    async with open_port(settings) as listeners, trio.open_nursery() as nursery:
        # The port is bound: a client that connects meanwhile waits until it is accepted.
        for name, task in tasks.items():
            await nursery.start(_supervised, name, task)
        server = Server(
            registry,
            hub,
            settings,
            shutdown=shutdown,
            url=url_of(listeners[0], is_secure=certificate is not None),
            certificate=certificate,
        )
        with _logged_crash("server"):
            await server.serve(listeners, task_status=task_status)
        nursery.cancel_scope.cancel()


def _login_mechanisms(settings: Settings) -> tuple[dict[str, str], ...]:
    """List how clients can identify themselves, for `_info`."""
    if settings.token is None:
        return ()
    bearer = {"kind": "bearer", "header": "Authorization"}
    return ({"kind": "anonymous"}, bearer) if settings.public_reads else (bearer,)


class Task(Protocol):
    """A task that reports when it has started, and runs until it is cancelled."""

    def __call__(self, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]:
        """Run until cancelled."""
        ...


async def _supervised(name: str, task: Task, *, task_status: trio.TaskStatus[None]) -> None:
    with _logged_crash(name):
        await task(task_status=task_status)


@contextmanager
def _logged_crash(name: str) -> Iterator[None]:
    """Log the name of a task that crashes, because its error ends the process."""
    try:
        yield
    except Exception:
        log.critical("the %s crashed; the registry stops", name, exc_info=True)
        raise


async def run(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Run a registry as a process does, until SIGINT or SIGTERM stops it gently.

    A second signal stops it at once. SIGHUP makes it read the config file and the certificate
    again. SIGINT is handled once the registry is ready; until then it acts as in the caller.

    Args:
        settings: The settings.
        say: Called with the start-up line when the registry is ready.

    Raises:
        StartError: It cannot start.
    """
    shutdown = Shutdown()
    certificate = open_certificate(settings)
    settings = replace(settings, max_connections=raise_open_files(settings.max_connections))
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
            # The outer stack keeps this receiver open until the last pings are written.
            interrupts = receivers.enter_context(receive(signal.SIGINT))
            nursery.start_soon(obey, interrupts)
            make_full_collections_rare()
            say(start_up_line(url, settings, registry))
            await obey(signals)


def make_full_collections_rare() -> None:
    """Make full garbage collections rare in this process, which only serves.

    A full collection visits every object. With 5,000 connections it takes half a second, in which
    no client is answered. It would free nothing, because connections, requests and changes leave
    no cycles.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_THRESHOLD)


async def reload_files(registry: Registry, certificate: Certificate | None) -> None:
    """Read the config file and the certificate again; log an invalid one, and keep the old."""
    if certificate is not None:
        try:
            await trio.to_thread.run_sync(certificate.reload)
        except StartError as error:
            log.error("certificate kept as it was: %s", error)  # noqa: TRY400 - the cause is said
        else:
            log.info("certificate read again")
    try:
        report = await registry.reload(by=Cause(origin=Origin.FILE))
    except MethodError as error:
        log.error("%s", error)  # noqa: TRY400 - the cause is said
    else:
        log.info("config file read again: %d backends", report.count)


def start_up_line(url: str, settings: Settings, registry: Registry) -> str:
    """Return the line with the URL, the files, and the number of backends from each source."""
    sources = Counter(backend.source for backend in registry.list(active_only=False))
    known = ", ".join(f"{count} {source}" for source, count in sorted(sources.items()))
    return (
        f"trio-registry {__version__} ready at {url}"
        f" (database {settings.db_path}, config {settings.config_path},"
        f" {sources.total()} backends{': ' + known if known else ''})"
    )
