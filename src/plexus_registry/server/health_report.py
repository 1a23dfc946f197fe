"""How the registry is, for health checks: what `/healthz` tells."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from plexus_registry import __version__
from plexus_registry.rules.backend import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plexus_registry.config.file import ConfigFile
    from plexus_registry.registry import Registry
    from plexus_registry.storage.group_commit import StorageFailure


def reporter(
    registry: Registry, *, db_path: Path, connections: Callable[[], int], refused: Counter[str]
) -> Callable[[], dict[str, object]]:
    """Prepare to report on a registry; its uptime counts from now.

    Args:
        registry: The registry.
        db_path: Its database, of which only the file name is told.
        connections: How many connections are open.
        refused: What was refused, by the name of the limit or check.
    """
    start = trio.current_time()

    def report() -> dict[str, object]:
        known = registry.list(active_only=False)
        active = sum(backend.is_active for backend in known)
        states = Counter(backend.state for backend in known)
        return {
            "version": __version__,
            "uptime_seconds": round(trio.current_time() - start, 3),
            "backends": {
                "active": active,
                "inactive": len(known) - active,
                "states": {state.value: states[state] for state in State},
            },
            "network": "suspect" if registry.health.suspects_network else "trusted",
            "database": db_path.name,
            "storage": _storage(registry.commits.failure),
            "config": _config(registry.config),
            "connections": connections(),
            "refused": dict(sorted(refused.items())),
        }

    return report


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
