"""The pages of the port, for browsers and health checks."""

from __future__ import annotations

import json
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from plexus_registry import __version__
from plexus_registry.rules.backend import State
from plexus_registry.rules.errors import shown
from plexus_registry.server.http import HttpResponse

if TYPE_CHECKING:
    from pathlib import Path

    from plexus_registry.config.file import ConfigFile
    from plexus_registry.registry import Registry
    from plexus_registry.server.access_policy import Grant, RequestHead
    from plexus_registry.server.listener import ConnectionLimits
    from plexus_registry.server.shutdown import Shutdown
    from plexus_registry.storage.group_commit import StorageFailure

_CONNECT = "connect with a WebSocket client and speak JSON-RPC 2.0"


class Pages:
    """The pages of one registry, by path."""

    def __init__(
        self,
        registry: Registry,
        *,
        url: str,
        db_path: Path,
        shutdown: Shutdown,
        connection_limits: ConnectionLimits,
        refused: Counter[str],
        is_health_public: bool,
    ) -> None:
        """Prepare the pages; the uptime counts from now.

        Args:
            registry: The registry that the pages describe.
            url: The URL at which clients connect.
            db_path: The database; only its file name is shown.
            shutdown: Once it has begun, the registry is unavailable.
            connection_limits: Counts the open connections.
            refused: Counts refusals, by the name of the limit or check.
            is_health_public: Whether a peer without a token may see more than the status.
        """
        self._registry = registry
        self._url = url
        self._db_path = db_path
        self._shutdown = shutdown
        self._connection_limits = connection_limits
        self._refused = refused
        self._is_health_public = is_health_public
        self._started = trio.current_time()
        self._by_path = {"/": self._welcome, "/healthz": self._health}

    def answer(self, head: RequestHead, grant: Grant) -> HttpResponse:
        """Answer an HTTP request that does not ask for a WebSocket."""
        page = self._by_path.get(head.path)
        if head.method not in {"GET", "HEAD"}:
            return HttpResponse(
                status=HTTPStatus.METHOD_NOT_ALLOWED,
                body=f"Plain HTTP is only for reading. To call a method, {_CONNECT}.\n",
                fields=(("Allow", "GET, HEAD"),),
            )
        if page is None:
            known = ", ".join(self._by_path)
            return HttpResponse(
                status=HTTPStatus.NOT_FOUND,
                body=f"There is no page {shown(head.path)}, but there are {known}."
                f" To call a method, {_CONNECT}.\n",
            )
        return page(grant)

    def _welcome(self, _grant: Grant) -> HttpResponse:
        body = f"""This is a Plexus Registry. It knows where services listen, by name.

It speaks JSON-RPC 2.0 over WebSocket, on this port:

    websocat {self._url}
    {{"jsonrpc":"2.0","id":1,"method":"registry.list"}}

For Synapse: synapse -P {self._url.rpartition(":")[2]}. For health checks: /healthz.
"""
        return HttpResponse(status=HTTPStatus.OK, body=body)

    def _health(self, grant: Grant) -> HttpResponse:
        is_ready = not self._shutdown.begun.is_set()
        working = "ok" if self._registry.commits.failure is None else "degraded"
        content: dict[str, object] = {"status": working if is_ready else "unavailable"}
        if is_ready and (self._is_health_public or grant):
            content |= health_report(
                self._registry,
                db_path=self._db_path,
                uptime_seconds=trio.current_time() - self._started,
                connections=self._connection_limits.count,
                refused=self._refused,
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
        "storage": _storage(registry.commits.failure),
        "config": _config(registry.config),
        "connections": connections,
        "refused": dict(sorted(refused.items())),
    }


def _storage(failure: StorageFailure | None) -> dict[str, object]:
    if failure is not None:
        return {"state": "failing", "since": failure.since, "reason": failure.reason}
    return {"state": "ok"}


def _config(config: ConfigFile) -> dict[str, object]:
    if config.error is not None:
        return {
            "state": "invalid",
            "since": config.invalid_since,
            "line": config.error.line,
            "reason": config.error.reason,
        }
    return {"state": "loaded", "exists": config.is_there}
