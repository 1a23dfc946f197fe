"""How the settings become the front door."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from plexus_registry.core.crowd import Crowd
from plexus_registry.core.gate import Gate, Rules
from plexus_registry.door.acceptor import room_for
from plexus_registry.door.complaints import Complaints
from plexus_registry.door.keeper import Keeper
from plexus_registry.door.pages import Pages, health, welcome
from plexus_registry.door.reception import Door
from plexus_registry.door.tls import Certificate
from plexus_registry.fairness import Fairness
from plexus_registry.health_report import reporter

if TYPE_CHECKING:
    from plexus_registry.door.reception import Converse
    from plexus_registry.drain import Drain
    from plexus_registry.service import Registry
    from plexus_registry.settings import Settings

log = logging.getLogger(__name__)


def make_door(
    registry: Registry,
    settings: Settings,
    *,
    converse: Converse,
    drain: Drain,
    url: str,
    certificate: Certificate | None,
) -> Door:
    """Put the front door together.

    Args:
        registry: What is behind it.
        settings: All of them.
        converse: Talks to one WebSocket.
        drain: Says when to stop.
        url: Where clients connect.
        certificate: What connections are secured with, where they are.
    """
    told = settings.door
    refused: Counter[str] = Counter()
    complaints = Complaints()
    crowd = Crowd(most=told.max_connections, most_from_one=told.max_connections_per_address)
    rules = Rules(
        hosts=frozenset({settings.host, *told.allow_hosts}),
        origins=frozenset(told.allow_origins),
        token=told.token,
        read_token=told.read_token,
        public_reads=told.public_reads,
        allow_url_token=told.allow_url_token,
    )
    report = reporter(
        registry, db_path=settings.db_path, connections=lambda: crowd.count, refused=refused
    )
    pages = Pages(
        by_path={
            "/": welcome(url),
            "/healthz": health(
                is_ready=lambda: not drain.begun.is_set(),
                is_degraded=lambda: registry.storage_failure is not None,
                report=report,
                tells_everybody=told.token is None,
            ),
        }
    )
    fairness = Fairness(max_unread=told.max_unread_total)
    return Door(
        converse=converse,
        drain=drain,
        gate=Gate(rules),
        crowd=crowd,
        pages=pages,
        keeper=Keeper(
            ping_interval=told.ping_interval,
            unread_seconds=told.unread_seconds,
            max_message_bytes=settings.limits.message_bytes,
            refused=refused,
            complaints=complaints,
        ),
        complaints=complaints,
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
    cert = settings.door.tls_cert
    return None if cert is None else Certificate(cert, settings.door.tls_key)


def make_room(connections: int) -> int:
    """Raise the limit of open files as far as needed; says so where it does not go that far.

    Returns:
        How many connections to take at most, so that the registry's own files have room, too.
    """
    room = room_for(connections)
    if room < connections:
        log.warning(
            "there is room for %d connections, and --max-connections is %d: raise `ulimit -n`"
            " (a hard limit is in the way), or say --max-connections %d",
            room,
            connections,
            room,
        )
    return max(1, room)
