"""Find the URL of a backend by its name, even while the registry is away. Trio only.

The last answer for each name is remembered. While the registry does not answer, that is the result,
marked as stale.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from plexus_registry.client.connection import connect
from plexus_registry.client.socket import without_secrets
from plexus_registry.rules.errors import NotFound, RegistryUnavailableError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from plexus_registry.rules.backend import Backend

ANSWER_SECONDS = 5.0
"""How long a registry may take; after that, the remembered answer is the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """The result of `discover`.

    Attributes:
        url: The URL of the backend.
        backend: The whole entry; `is_active` tells whether the backend gives signs of life.
        is_stale: Whether the registry did not answer, so that this is an earlier answer.
        as_of: The time of the answer, in Unix seconds.
    """

    url: str
    backend: Backend
    is_stale: bool
    as_of: int


LastKnown = dict[tuple[str, str], Discovered]
"""The last answers, by the registry's URL and the backend's name."""

_LAST_KNOWN: LastKnown = {}


async def discover(
    url: str,
    name: str,
    *,
    token: str | None = None,
    last_known: MutableMapping[tuple[str, str], Discovered] = _LAST_KNOWN,
) -> Discovered:
    """Find a backend by its name.

    Args:
        url: The registry's URL.
        name: The backend's name.
        token: The token, if the registry wants one.
        last_known: The remembered answers; by default those of this process.

    Returns:
        The registry's answer; if it does not answer, its last answer.

    Raises:
        NotFound: The registry says that no backend has the name; earlier answers are forgotten.
        RegistryUnavailableError: It does not answer, and no answer is remembered.
        UrlError: The URL is not one of a registry.
    """
    try:
        backend = await _ask(url, name, token)
    except RegistryUnavailableError:
        remembered = last_known.get((url, name))
        if remembered is None:
            raise
        return replace(remembered, is_stale=True)
    if backend is None:
        last_known.pop((url, name), None)
        raise NotFound(name)
    found = Discovered(url=backend.url, backend=backend, is_stale=False, as_of=int(time.time()))
    last_known[url, name] = found
    return found


async def _ask(url: str, name: str, token: str | None) -> Backend | None:
    try:
        with trio.fail_after(ANSWER_SECONDS) as scope:
            async with connect(url, token=token) as client:
                backend = await client.get(name)
                scope.deadline = math.inf  # an answer that came in time counts
    except trio.TooSlowError as error:
        raise RegistryUnavailableError(
            f"{without_secrets(url)} does not answer within {ANSWER_SECONDS:g} seconds"
        ) from error
    return backend
