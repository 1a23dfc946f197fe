"""Build the server from the settings."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from plexus_registry.concurrency import LogThrottle
from plexus_registry.rpc.fairness import Fairness
from plexus_registry.server.access_policy import AccessPolicy, AccessRules
from plexus_registry.server.connection_limits import ConnectionLimits
from plexus_registry.server.handshake import Server
from plexus_registry.server.health_report import reporter
from plexus_registry.server.heartbeat import Heartbeat
from plexus_registry.server.listener import open_files_for
from plexus_registry.server.pages import Pages, health, welcome
from plexus_registry.server.tls import Certificate

if TYPE_CHECKING:
    from plexus_registry.registry import Registry
    from plexus_registry.server.handshake import Converse
    from plexus_registry.server.shutdown import Shutdown
    from plexus_registry.settings import Settings

log = logging.getLogger(__name__)


def build_server(
    registry: Registry,
    settings: Settings,
    *,
    serve_connection: Converse,
    shutdown: Shutdown,
    url: str,
    certificate: Certificate | None,
) -> Server:
    """Build the parts of the server.

    Args:
        registry: What is behind it.
        settings: All of them.
        serve_connection: Talks to one WebSocket.
        shutdown: Says when to stop.
        url: Where clients connect.
        certificate: What connections are secured with, where they are.
    """
    refused: Counter[str] = Counter()
    log_throttle = LogThrottle()
    connection_limits = ConnectionLimits(
        most=settings.max_connections, most_from_one=settings.max_connections_per_address
    )
    rules = AccessRules(
        hosts=frozenset({settings.host, *settings.allow_hosts}),
        origins=frozenset(settings.allow_origins),
        token=settings.token,
        read_token=settings.read_token,
        public_reads=settings.public_reads,
        allow_url_token=settings.allow_url_token,
    )
    report = reporter(
        registry,
        db_path=settings.db_path,
        connections=lambda: connection_limits.count,
        refused=refused,
    )
    pages = Pages(
        by_path={
            "/": welcome(url),
            "/healthz": health(
                is_ready=lambda: not shutdown.begun.is_set(),
                is_degraded=lambda: registry.commits.failure is not None,
                report=report,
                tells_everybody=settings.token is None,
            ),
        }
    )
    fairness = Fairness(max_unread=settings.max_unread_total)
    return Server(
        serve_connection=serve_connection,
        shutdown=shutdown,
        access_policy=AccessPolicy(rules),
        connection_limits=connection_limits,
        pages=pages,
        heartbeat=Heartbeat(
            ping_interval=settings.ping_interval,
            unread_seconds=settings.unread_seconds,
            max_message_bytes=settings.limits.message_bytes,
            refused=refused,
            log_throttle=log_throttle,
        ),
        log_throttle=log_throttle,
        refused=refused,
        certificate=certificate,
        max_message_bytes=settings.limits.message_bytes,
        fairness=fairness,
    )


def open_certificate(settings: Settings) -> Certificate | None:
    """Read the certificate that the settings name, if they do.

    Raises:
        StartError: It cannot be used.
    """
    cert = settings.tls_cert
    return None if cert is None else Certificate(cert, settings.tls_key)


def raise_open_files(connections: int) -> int:
    """Raise the limit of open files as far as needed; says so where it does not go that far.

    Returns:
        How many connections to take at most, so that the registry's own files have room, too.
    """
    room = open_files_for(connections)
    if room < connections:
        log.warning(
            "there is room for %d connections, and --max-connections is %d: raise `ulimit -n`"
            " (a hard limit is in the way), or say --max-connections %d",
            room,
            connections,
            room,
        )
    return max(1, room)
