"""From a name to a URL to connect to, also while the registry is away.

What the registry said last of a name is remembered, and is the answer while it cannot be asked;
the answer then says that it is stale. Trio only.
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
"""How long a registry may take before the remembered answer is given instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """Where a backend is.

    Attributes:
        url: Where to connect.
        backend: All that the registry said of it; `is_active` tells whether it gives signs of
            life.
        is_stale: Whether the registry could not be asked, and this is what it said before.
        as_of: When the registry said so, in Unix seconds.
    """

    url: str
    backend: Backend
    is_stale: bool
    as_of: int


LastKnown = dict[tuple[str, str], Discovered]
"""What was found, by the registry's URL and the backend's name."""

_LAST_KNOWN: LastKnown = {}


async def discover(
    url: str,
    name: str,
    *,
    token: str | None = None,
    last_known: MutableMapping[tuple[str, str], Discovered] = _LAST_KNOWN,
) -> Discovered:
    """Find out where a backend is.

    Args:
        url: The registry's URL.
        name: The backend's name.
        token: What proves who is asking, where the registry wants that.
        last_known: What is remembered; by default for as long as the process lives.

    Returns:
        What the registry says, or, where it does not answer, what it said last.

    Raises:
        NotFound: The registry says that there is no such backend; what it said before is
            forgotten.
        RegistryUnavailableError: It does not answer, and nothing is remembered.
        UrlError: The URL is none.
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
