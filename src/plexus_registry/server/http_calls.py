"""Calls over plain HTTP: reads by GET, JSON-RPC by POST, and targets for Prometheus.

An answer is made at once, in a turn of its own if it is long, and counts as unread until it is
sent. Subscriptions need a WebSocket.

Source: manual/http.md, "Calls" and "Backends".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

import trio

from plexus_registry.rpc.fairness import Caller, Fairness, Share
from plexus_registry.rpc.handler import Handler
from plexus_registry.rules.backend import State
from plexus_registry.rules.errors import NotFound, shown
from plexus_registry.rules.events import encode_failed, encode_found, encode_listed, encode_value
from plexus_registry.server.access_policy import UNAUTHORIZED, Grant, Refusal
from plexus_registry.server.handshake import SlowAnswer
from plexus_registry.server.http import HttpResponse
from plexus_registry.server.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plexus_registry.registry import Registry
    from plexus_registry.rpc.plexus import Hub
    from plexus_registry.rules.backend import Backend
    from plexus_registry.server.access_policy import RequestHead
    from plexus_registry.server.http import HttpRequest
    from plexus_registry.server.metrics import Metrics

JSON = "application/json"
MANY_BACKENDS = 100
"""An answer about more backends needs a turn, and room for it."""
_BACKENDS, _TARGETS, _METRICS = "/backends", "/sd/prometheus", "/metrics"
PATHS = (_BACKENDS, "/backends/NAME", _TARGETS, _METRICS)
_READS = {"GET", "HEAD"}
_SWITCH = {"true": True, "false": False}


@dataclass(slots=True, kw_only=True)
class HttpCalls:
    """Answers the calls of one registry that come as HTTP requests.

    Attributes:
        registry: The registry.
        hub: Finds out what a JSON-RPC request means.
        fairness: The turns and the memory that all connections share.
        max_message_bytes: The greatest length of a body.
        metrics: The answer to `/metrics`.
    """

    registry: Registry
    hub: Hub
    fairness: Fairness
    max_message_bytes: int
    metrics: Metrics

    def answer(
        self, request: HttpRequest, grant: Grant, caller: Caller
    ) -> HttpResponse | Refusal | SlowAnswer | None:
        """Answer a request; return None if it is not one of these calls."""
        head = request.head
        if head.method == "POST" and head.path == "/":
            return self._post(request, grant, caller)
        is_one = head.path.startswith(f"{_BACKENDS}/")
        if head.method not in _READS or not (is_one or head.path in PATHS):
            return None
        if grant is Grant.NOTHING:
            return UNAUTHORIZED
        if is_one:
            return self._one(head)
        share = Share(self.fairness)
        if head.path == _TARGETS:
            return SlowAnswer(make=partial(self._make_targets, share), share=share)
        if head.path == _METRICS:
            return SlowAnswer(make=partial(self._make_metrics, share), share=share)
        try:
            is_wanted, active_only = _filter(head.target.partition("?")[2])
        except ValueError as error:
            return _json(_error(str(error), "invalid_params"), status=HTTPStatus.BAD_REQUEST)
        make = partial(self._make_list, share, head, is_wanted, active_only)
        return SlowAnswer(make=make, share=share)

    def _one(self, head: RequestHead) -> HttpResponse:
        name = unquote(head.path.removeprefix(f"{_BACKENDS}/"))
        backend = self.registry.get(name)
        if backend is None:
            return _json(encode_failed(NotFound(name)), status=HTTPStatus.NOT_FOUND)
        return self._unless_known(head, lambda: encode_found(_with_url(backend)))

    async def _make_list(
        self,
        share: Share,
        head: RequestHead,
        is_wanted: Callable[[Backend], bool],
        active_only: bool,
        _body: bytes,
    ) -> HttpResponse:
        await self._wait_for_room(share)

        def make() -> str:
            backends = self.registry.list(active_only=active_only)
            encoded = [_with_url(each) for each in backends if is_wanted(each)]
            return encode_listed(encoded, self.registry.catalog.revision)

        answer = self._unless_known(head, make)
        share.hold(answer.body)
        return answer

    async def _make_targets(self, share: Share, _body: bytes) -> HttpResponse:
        await self._wait_for_room(share)
        answer = _json(encode_value([_target(each) for each in self.registry.list()]))
        share.hold(answer.body)
        return answer

    async def _make_metrics(self, share: Share, _body: bytes) -> HttpResponse:
        # The first import takes a tenth of a second, in which others go on.
        await trio.to_thread.run_sync(import_module, "prometheus_client")
        await self._wait_for_room(share)
        answer = HttpResponse(
            status=HTTPStatus.OK, body=self.metrics.encode(), content_type=CONTENT_TYPE
        )
        share.hold(answer.body)
        return answer

    async def _wait_for_room(self, share: Share) -> None:
        if len(self.registry.catalog) > MANY_BACKENDS:
            await share.wait_for_room()

    def _unless_known(self, head: RequestHead, make: Callable[[], str]) -> HttpResponse:
        """Make an answer, unless the client has it. Source: RFC 9110, section 13.1.2."""
        # It is weak: a ping or a probe can change a backend without a new revision.
        tag = f'W/"{self.registry.catalog.revision}"'
        fields = (("ETag", tag), ("Cache-Control", "no-cache"))
        known = {
            each.strip().removeprefix("W/")
            for value in head.values(b"if-none-match")
            for each in value.split(",")
        }
        if "*" in known or tag.removeprefix("W/") in known:
            return HttpResponse(status=HTTPStatus.NOT_MODIFIED, body="", fields=fields)
        return _json(make(), fields=fields)

    def _post(self, request: HttpRequest, grant: Grant, caller: Caller) -> Refusal | SlowAnswer:
        types = request.head.values(b"content-type")
        if [each.partition(";")[0].strip().lower() for each in types] != [JSON]:
            return _WRONG_TYPE
        if request.body_bytes is None or not request.head.values(b"content-length"):
            return _NO_LENGTH
        if request.body_bytes > self.max_message_bytes:
            return Refusal(
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                counted_as="message_bytes",
                text=f"A message may have at most {self.max_message_bytes} bytes.",
            )
        if grant is Grant.NOTHING:
            return UNAUTHORIZED
        share = Share(self.fairness)
        make = partial(self._carry_out, caller, share)
        return SlowAnswer(make=make, share=share, body_bytes=request.body_bytes)

    async def _carry_out(self, caller: Caller, share: Share, body: bytes) -> HttpResponse:
        """Carry out the JSON-RPC requests of a body."""
        async with trio.open_nursery() as nursery:
            sender = _Sender(share, nursery.start_soon)
            handler = Handler(self.registry, self.hub, caller, peer=sender)
            await share.wait_for_turn()
            answer = handler.answer(body)
            frames = answer if isinstance(answer, list) else await answer
        text = "".join([*sender.parts, *frames])
        if not text:
            return HttpResponse(status=HTTPStatus.NO_CONTENT, body="")
        return _json(text)


class _Sender:
    """Collects the parts of an answer; its response has one body."""

    is_gone = False

    def __init__(self, share: Share, start_soon: Callable[[Callable[[], Awaitable[None]]], None]):
        self.share = share
        self.parts: list[str] = []
        self._start_soon = start_soon

    def start_soon(self, task: Callable[[], Awaitable[None]], /) -> None:
        self._start_soon(task)

    async def send_part(self, text: str, *, is_first: bool, is_last: bool) -> None:  # noqa: ARG002
        self.share.hold(text)
        self.parts.append(text)


def _filter(query: str) -> tuple[Callable[[Backend], bool], bool]:
    """Read which backends are wanted, and whether only active ones.

    Raises:
        ValueError: A parameter is unknown or has a wrong value.
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    given.pop("access_token", None)
    if unknown := given.keys() - {"active", "namespace", "state"}:
        name = shown(min(unknown))
        raise ValueError(f"Unknown parameter {name}: it takes active, namespace, state")
    state, namespace = given.get("state"), given.get("namespace")
    if state is not None and state not in set(State):
        raise ValueError(f"Parameter state is {shown(state)}: it must be one of {', '.join(State)}")
    active = given.get("active", "true" if state is None else "false")
    if active not in _SWITCH:
        raise ValueError(f"Parameter active is {shown(active)}: it must be true or false")

    def is_wanted(backend: Backend) -> bool:
        return state in {None, backend.state} and namespace in {None, backend.namespace}

    return is_wanted, _SWITCH[active]


def _with_url(backend: Backend) -> str:
    return f'{encode_value(backend)[:-1]},"url":{encode_value(backend.url)}}}'


def _target(backend: Backend) -> dict[str, object]:
    """Describe a backend to Prometheus. Source: Prometheus, "HTTP SD"."""
    labels = {
        "name": backend.name,
        "namespace": backend.namespace,
        "source": backend.source.value,
        "version": backend.version,
    }
    return {
        "targets": [backend.url.partition("://")[2]],
        "labels": {f"__meta_plexus_{k}": v for k, v in labels.items() if v is not None},
    }


def _error(message: str, code: str) -> str:
    return encode_value({"type": "error", "message": message, "code": code})


def _json(
    text: str, *, status: int = HTTPStatus.OK, fields: tuple[tuple[str, str], ...] = ()
) -> HttpResponse:
    return HttpResponse(status=status, body=f"{text}\n", content_type=JSON, fields=fields)


_WRONG_TYPE = Refusal(
    status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    counted_as="bad_request",
    text="JSON-RPC over HTTP needs `Content-Type: application/json`; or connect with a WebSocket"
    " client.",
)
_NO_LENGTH = Refusal(
    status=HTTPStatus.LENGTH_REQUIRED,
    counted_as="bad_request",
    text="JSON-RPC over HTTP needs a `Content-Length`; chunked bodies are not accepted.",
)
