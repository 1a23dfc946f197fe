"""The server: every connection of the port, from its acceptance to its end.

Theory of operation. Each connection has one task, which takes it through these steps: the
connection limits, TLS, HTTP requests and the access policy (until one request is a WebSocket
handshake), the WebSocket, and the close. A connection above a limit gets TLS and an error instead.
An error of one connection ends that connection only.

The shutdown stops accepting, ends idle connections at once, and busy ones after their current
request. It lasts at most `SHUTDOWN_SECONDS`, and then cancels the connections that are left.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from plexus_registry.concurrency import LogThrottle
from plexus_registry.measures import Requests
from plexus_registry.rpc.fairness import Caller, Fairness
from plexus_registry.server.access_policy import UNAUTHORIZED, AccessPolicy, Grant, Refusal
from plexus_registry.server.connection import Watchers, serve_connection
from plexus_registry.server.handshake import (
    Handshake,
    SlowAnswer,
    accept_websocket,
    answer_requests,
    hang_up,
    start_tls,
)
from plexus_registry.server.heartbeat import Heartbeat
from plexus_registry.server.http import (
    HttpRequest,
    HttpResponse,
    bad_request,
    encode_response,
    handshake_fault,
)
from plexus_registry.server.http_calls import HttpCalls
from plexus_registry.server.listener import (
    ConnectionLimits,
    Endpoints,
    accept_forever,
    endpoints_of,
)
from plexus_registry.server.metrics import Metrics
from plexus_registry.server.pages import Pages
from plexus_registry.server.websocket import WebSocket
from plexus_registry.websocket_frames import CloseCode, FrameReader

if TYPE_CHECKING:
    from plexus_registry.registry import Registry
    from plexus_registry.rpc.plexus import Hub
    from plexus_registry.server.handshake import Shutdown
    from plexus_registry.server.listener import Certificate
    from plexus_registry.settings import Settings

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5.0
CLOSE_SECONDS = 1.0
MOST_REFUSED_AT_ONCE = 64
"""How many refused connections get an answer at the same time; more are closed without one."""

_NO_LINGER = struct.pack("ii", 1, 0)


class Server:
    """Serves the connections of the port."""

    def __init__(
        self,
        registry: Registry,
        hub: Hub,
        settings: Settings,
        *,
        shutdown: Shutdown,
        url: str,
        certificate: Certificate | None,
    ) -> None:
        """Build the parts that all connections share.

        `url` is the one at which clients connect. Without a certificate, the port does not speak
        TLS.
        """
        self._registry = registry
        self._hub = hub
        self._shutdown = shutdown
        self._url = url
        self._certificate = certificate
        self._max_message_bytes = settings.limits.message_bytes
        self._needs_token = settings.token is not None
        self._refused: Counter[str] = Counter()
        self._requests = Requests()
        self._log_throttle = LogThrottle()
        self._fairness = Fairness(max_unread=settings.max_unread_total)
        self._watchers = Watchers(registry, self._fairness)
        self._being_refused = 0
        self._connection_limits = ConnectionLimits(
            most=settings.max_connections, most_from_one=settings.max_connections_per_address
        )
        self._access_policy = AccessPolicy(
            hosts=(settings.host, *settings.allow_hosts),
            origins=settings.allow_origins,
            token=settings.token,
            read_token=settings.read_token,
            public_reads=settings.public_reads,
            allow_url_token=settings.allow_url_token,
        )
        self._pages = Pages(
            registry=registry,
            url=url,
            db_path=settings.db_path,
            shutdown=shutdown,
            connection_limits=self._connection_limits,
            refused=self._refused,
            is_health_public=settings.token is None,
        )
        self._heartbeat = Heartbeat(
            ping_interval=settings.ping_interval,
            unread_seconds=settings.unread_seconds,
            max_message_bytes=self._max_message_bytes,
            refused=self._refused,
            log_throttle=self._log_throttle,
        )
        self._http_calls = HttpCalls(
            registry=registry,
            hub=hub,
            fairness=self._fairness,
            max_message_bytes=self._max_message_bytes,
            metrics=Metrics(
                registry=registry,
                connection_limits=self._connection_limits,
                fairness=self._fairness,
                heartbeat=self._heartbeat,
                refused=self._refused,
                requests=self._requests,
                watchers=self._watchers,
            ),
        )

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve connections until the shutdown begins, and then until the last one has ended.

        The listeners are closed at the end. The task is started, with the URL, when the port
        accepts connections.
        """
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as acceptors:
                await acceptors.start(self._heartbeat.check_forever)
                await acceptors.start(self._watchers.send_forever)
                start = partial(self._start, connections)
                for listener in listeners:
                    acceptors.start_soon(accept_forever, listener, start, self._report_fault)
                task_status.started(self._url)
                await self._shutdown.begun.wait()
                acceptors.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + SHUTDOWN_SECONDS

    def _start(self, connections: trio.Nursery, stream: trio.abc.Stream) -> None:
        """Start the task of a new connection."""
        try:
            endpoints = endpoints_of(stream)
        except OSError:
            connections.start_soon(trio.aclose_forcefully, stream)
            return
        refusal = self._connection_limits.enter(endpoints.peer)
        answer = None if refusal is None else self._refuse(refusal)
        if answer is not None:
            if self._being_refused >= MOST_REFUSED_AT_ONCE:
                connections.start_soon(trio.aclose_forcefully, stream)
                return
            self._being_refused += 1
        connections.start_soon(self._run, stream, endpoints, answer)

    async def _run(
        self, stream: trio.abc.Stream, endpoints: Endpoints, refusal: HttpResponse | None
    ) -> None:
        """Serve or refuse one connection, and close it; no error leaves its task."""
        try:
            if refusal is None:
                await self._serve_stream(stream, endpoints)
            elif (secured := await self._secure(stream)) is not None:
                await hang_up(secured, encode_response(refusal, is_last=True))
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("connection lost")
        except* Exception as bug:  # noqa: BLE001 - it is logged, and ends this connection only
            self._log_throttle.log_bug("a connection failed", bug)
        finally:
            if refusal is None:
                self._connection_limits.leave(endpoints.peer)
            else:
                self._being_refused -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_stream(self, plain: trio.abc.Stream, endpoints: Endpoints) -> None:
        stream = accepted = None
        with self._shutdown.request_loop() as loop:
            if loop.must_end():
                return
            stream = await self._secure(plain)
            if stream is not None:
                decide = partial(self._decide, endpoints)
                accepted = await answer_requests(stream, loop, decide)
        if stream is None or accepted is None:
            return
        if await accept_websocket(stream, accepted.request.raw):
            await self._serve_websocket(stream, accepted, endpoints)

    async def _secure(self, plain: trio.abc.Stream) -> trio.abc.Stream | None:
        """Do the TLS handshake, if the port speaks TLS; return None if the peer does not."""
        if self._certificate is None:
            return plain
        stream = await start_tls(plain, self._certificate.context)
        if isinstance(stream, Refusal):
            await hang_up(plain, encode_response(self._refuse(stream), is_last=True))
            return None
        return stream

    def _decide(
        self, endpoints: Endpoints, request: HttpRequest | Refusal
    ) -> HttpResponse | SlowAnswer | Handshake:
        """Decide how to answer a request; count and log it if it is refused."""
        decision = request if isinstance(request, Refusal) else self._check(request, endpoints)
        return self._refuse(decision) if isinstance(decision, Refusal) else decision

    def _check(
        self, request: HttpRequest, endpoints: Endpoints
    ) -> HttpResponse | Refusal | SlowAnswer | Handshake:
        head = request.head
        refusal = self._access_policy.refusal(head, local=endpoints.local)
        if refusal is not None:
            return refusal
        if not head.target.startswith("/") and head.method in {"GET", "HEAD"}:
            return bad_request("The target of the request must be a path, such as /.")
        grant = self._access_policy.grant(head)
        if grant is Grant.NOTHING and self._access_policy.has_token(head):
            self._log_throttle.log_address(
                "wrong token",
                endpoints.peer,
                f"refused {endpoints.peer}: its token is wrong; it needs the one of --token-file"
                " or REGISTRY_TOKEN",
            )
        if not request.is_upgrade or head.method != "GET":
            caller = self._caller(grant, endpoints, may_subscribe=False)
            answer = self._http_calls.answer(request, grant, caller)
            return answer or self._pages.answer(head, grant)
        if (fault := handshake_fault(request)) is not None:
            return fault
        if grant is Grant.NOTHING:
            return UNAUTHORIZED
        return Handshake(request, grant)

    def _caller(self, grant: Grant, endpoints: Endpoints, *, may_subscribe: bool = True) -> Caller:
        may_write = grant is Grant.ALL
        host = f"[{endpoints.peer}]" if ":" in endpoints.peer else endpoints.peer
        return Caller(
            may_write=may_write,
            may_subscribe=may_subscribe,
            peer=f"{host}:{endpoints.port}",
            token="none" if not self._needs_token else "write" if may_write else "read",
            refused=self._refused,
            requests=self._requests,
        )

    async def _serve_websocket(
        self, stream: trio.abc.Stream, accepted: Handshake, endpoints: Endpoints
    ) -> None:
        """Serve an open WebSocket until it ends."""
        caller = self._caller(accepted.grant, endpoints)
        reader = FrameReader(is_peer_client=True, max_message_bytes=self._max_message_bytes)
        reader.feed(accepted.request.rest)
        async with trio.open_nursery() as nursery:
            websocket = WebSocket(stream, nursery, reader, caller, self._fairness)
            cut = partial(_cut, stream, nursery.cancel_scope)
            watched = self._heartbeat.add(websocket, str(endpoints), cut)
            try:
                await serve_connection(
                    self._registry, self._hub, websocket, self._shutdown, self._watchers
                )
            finally:
                if websocket.was_too_large:
                    self._refused["message_bytes"] += 1
                # If a frame was cut in the middle, the peer would take a close for its rest.
                if websocket.sending is None:
                    with trio.move_on_after(CLOSE_SECONDS, shield=True):
                        # It changes nothing if the WebSocket was closed with a reason before.
                        await websocket.close(CloseCode.INTERNAL_ERROR)
                self._heartbeat.remove(watched)
            nursery.cancel_scope.cancel()

    def _report_fault(self, name: str, text: str) -> None:
        """Count and log a fault that is not answered to any peer."""
        self._refused[name] += 1
        self._log_throttle.log(name, text)

    def _refuse(self, refusal: Refusal) -> HttpResponse:
        """Count and log a refusal, and return its answer."""
        self._refused[refusal.counted_as] += 1
        if refusal.log:
            self._log_throttle.log(refusal.counted_as, refusal.log)
        return HttpResponse(status=refusal.status, body=refusal.text + "\n", fields=refusal.fields)


def _cut(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """End a connection at once; the system drops the bytes that the peer has not received."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(plain, trio.SocketStream):
        with suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    scope.cancel()
