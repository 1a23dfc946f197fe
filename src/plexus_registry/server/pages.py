"""The pages of the port, for browsers and health checks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from plexus_registry import __version__
from plexus_registry.rules.backend import State
from plexus_registry.rules.errors import shown
from plexus_registry.server.http import HttpResponse
from plexus_registry.server.http_calls import PATHS

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.config.file import ConfigFile
    from plexus_registry.registry import Registry
    from plexus_registry.server.access_policy import Grant, RequestHead
    from plexus_registry.server.handshake import Shutdown
    from plexus_registry.server.listener import ConnectionLimits

_CONNECT = "POST a JSON-RPC 2.0 request to /, or connect with a WebSocket client"


@dataclass(slots=True, kw_only=True)
class Pages:
    """The pages of one registry.

    Attributes:
        registry: The registry that they describe.
        url: The URL at which clients connect.
        db_path: The database; only its file name is shown.
        shutdown: Once it has begun, the registry is unavailable.
        connection_limits: Counts the open connections.
        refused: Counts refusals, by the name of the limit or check.
        is_health_public: Whether a peer without a token may see more than the status.
        started: The time of Trio from which the uptime counts.
    """

    registry: Registry
    url: str
    db_path: Path
    shutdown: Shutdown
    connection_limits: ConnectionLimits
    refused: Counter[str]
    is_health_public: bool
    started: float = field(default_factory=trio.current_time)

    def answer(self, head: RequestHead, grant: Grant) -> HttpResponse:
        """Answer an HTTP request that does not ask for a WebSocket."""
        if head.method not in {"GET", "HEAD"}:
            return HttpResponse(
                status=HTTPStatus.METHOD_NOT_ALLOWED,
                body=f"Only GET and HEAD can be used here. To call a method, {_CONNECT}.\n",
                fields=(("Allow", "GET, HEAD, POST" if head.path == "/" else "GET, HEAD"),),
            )
        if head.path == "/":
            return self._welcome()
        if head.path == "/healthz":
            return self._health(grant)
        return HttpResponse(
            status=HTTPStatus.NOT_FOUND,
            body=f"There is no page {shown(head.path)}, but there are /, /healthz,"
            f" {', '.join(PATHS)}. To call a method, {_CONNECT}.\n",
        )

    def _welcome(self) -> HttpResponse:
        body = f"""This is a Plexus Registry. It knows where services listen, by name.

It speaks JSON-RPC 2.0 over WebSocket, on this port:

    websocat {self.url}
    {{"jsonrpc":"2.0","id":1,"method":"registry.list"}}

Over plain HTTP, it answers JSON-RPC by POST, and these addresses:

    /backends                the backends as JSON; also ?active=false, ?namespace=, ?state=
    /backends/NAME           one backend
    /sd/prometheus           targets for Prometheus
    /metrics                 metrics for Prometheus
    /healthz                 health checks

For Synapse: synapse -P {self.url.rpartition(":")[2]}.
"""
        return HttpResponse(status=HTTPStatus.OK, body=body)

    def _health(self, grant: Grant) -> HttpResponse:
        is_ready = not self.shutdown.begun.is_set()
        working = "ok" if self.registry.commits.failure is None else "degraded"
        content: dict[str, object] = {"status": working if is_ready else "unavailable"}
        if is_ready and (self.is_health_public or grant):
            content |= health_report(
                self.registry,
                db_path=self.db_path,
                uptime_seconds=trio.current_time() - self.started,
                connections=self.connection_limits.count,
                refused=self.refused,
            )
        return HttpResponse(
            status=HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE,
            # Other characters than ASCII are escaped, so none can control the terminal of a reader.
            body=json.dumps(content, separators=(",", ":")) + "\n",
            content_type="application/json",
        )


def health_report(
    registry: Registry,
    *,
    db_path: Path,
    uptime_seconds: float,
    connections: int,
    refused: Counter[str],
) -> dict[str, object]:
    """Describe the state of a registry. Source: manual/operations.md, "Health checks"."""
    backends = registry.list(active_only=False)
    active = sum(backend.is_active for backend in backends)
    states = Counter(backend.state for backend in backends)
    failure = registry.commits.failure
    storage: dict[str, object] = {"state": "ok"}
    if failure is not None:
        storage = {"state": "failing", "since": failure.since, "reason": failure.reason}
    return {
        "version": __version__,
        "uptime_seconds": round(uptime_seconds, 3),
        "backends": {
            "active": active,
            "inactive": len(backends) - active,
            "states": {state.value: states[state] for state in State},
        },
        "network": "suspect" if registry.health.suspects_network else "trusted",
        "database": db_path.name,
        "storage": storage,
        "config": _config(registry.config),
        "connections": connections,
        "refused": dict(sorted(refused.items())),
    }


def _config(config: ConfigFile) -> dict[str, object]:
    if config.error is not None:
        return {
            "state": "invalid",
            "since": config.invalid_since,
            "line": config.error.line,
            "reason": config.error.reason,
        }
    return {"state": "loaded", "exists": config.is_there}
