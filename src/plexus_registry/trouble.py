"""A failing disk, in the log: when it starts to fail and when it recovers, not every round."""

from __future__ import annotations

import logging

from plexus_registry.core.errors import StorageFailed

log = logging.getLogger(__name__)


class Trouble:
    """Goes around what fails with `StorageFailed` and is tried again later."""

    def __init__(self, failing: str, recovered: str) -> None:
        """Prepare it.

        Args:
            failing: What to log at the first failure, with `%s` for the reason.
            recovered: What to log at the first success after.
        """
        self._failing = failing
        self._recovered = recovered
        self._is_failing = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if error is not None and not isinstance(error, StorageFailed):
            return False
        if error is not None and not self._is_failing:
            log.warning(self._failing, error)
        elif error is None and self._is_failing:
            log.info("%s", self._recovered)
        self._is_failing = error is not None
        return True
