"""What a browser or a health check finds on the port: the table of pages, and the first two."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from plexus_registry.rules.errors import shown
from plexus_registry.server.http import HttpResponse

if TYPE_CHECKING:
    from plexus_registry.server.access_policy import Grant, RequestHead

Report = Mapping[str, object]
Page = Callable[["Grant"], HttpResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The pages of one registry, by path; a new one is one line where they are made."""

    by_path: Mapping[str, Page]

    def answer(self, head: RequestHead, grant: Grant) -> HttpResponse:
        """Answer a plain HTTP request."""
        page = self.by_path.get(head.path)
        if head.method not in {"GET", "HEAD"}:
            return HttpResponse(
                status=HTTPStatus.METHOD_NOT_ALLOWED,
                body=f"Plain HTTP is for looking only. To call a method, {_CONNECT}.\n",
                fields=(("Allow", "GET, HEAD"),),
            )
        if page is None:
            known = ", ".join(self.by_path)
            return HttpResponse(
                status=HTTPStatus.NOT_FOUND,
                body=f"There is no page {shown(head.path)}, but there are {known}."
                f" To call a method, {_CONNECT}.\n",
            )
        return page(grant)


_CONNECT = "connect with a WebSocket client and speak JSON-RPC 2.0"


def welcome(url: str) -> Page:
    """Make the page that says what this is and how to connect."""
    body = f"""This is a Plexus Registry. It knows where services listen, by name.

It speaks JSON-RPC 2.0 over WebSocket, on this port:

    websocat {url}
    {{"jsonrpc":"2.0","id":1,"method":"registry.list"}}

For Synapse: synapse -P {url.rpartition(":")[2]}. For health checks: /healthz.
"""
    return lambda _grant: HttpResponse(status=HTTPStatus.OK, body=body)


def health(
    *,
    is_ready: Callable[[], bool],
    is_degraded: Callable[[], bool],
    report: Callable[[], Report],
    tells_everybody: bool,
) -> Page:
    """Make the page for health checks.

    Args:
        is_ready: Whether calls are answered.
        is_degraded: Whether some calls fail, though the others are answered.
        report: What there is to tell.
        tells_everybody: Whether those who show no token are told more than whether it is ready.
    """

    def page(grant: Grant) -> HttpResponse:
        ready = is_ready()
        working = "degraded" if is_degraded() else "ok"
        content: Report = {"status": working if ready else "unavailable"}
        if ready and (tells_everybody or grant):
            content = {**content, **report()}
        return HttpResponse(
            status=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
            # What is not ASCII is escaped: no character in it steers the terminal of a reader.
            body=json.dumps(content, separators=(",", ":")) + "\n",
            content_type="application/json",
        )

    return page
