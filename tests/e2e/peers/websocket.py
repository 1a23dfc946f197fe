"""One connection of a strict client: requests out, frames into its ledger.

Every wait is bounded: a stream that never ends hangs a real client, so it is a violation.
"""

from __future__ import annotations

import itertools
import json
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from tests.e2e.peers.frames import Data, Done, Failure, Item, RpcError, ViolationError
from tests.e2e.peers.ledger import Call, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

PATIENCE_SECONDS = 5.0
CONNECT_SECONDS = 5.0
_QUEUE = 100_000  # a full queue would keep the pong of `settle` from being seen


class UnreachableError(Exception):
    """Nobody speaks WebSocket there, or not in time."""


class RefusedError(Exception):
    """A call was answered with a JSON-RPC error; that is no violation in itself."""

    def __init__(self, method: str, error: RpcError) -> None:
        super().__init__(f"{method} was refused: {error}")
        self.error = error


class StreamFailedError(Exception):
    """A stream ended with an `error` item; that is no violation in itself."""

    def __init__(self, method: str, failure: Failure) -> None:
        super().__init__(f"{method} failed: {failure.message} ({failure.code})")
        self.failure = failure


OMITTED: object = object()


class WebSocket:
    """One connection of a client: requests out, frames into the ledger.

    Only one task may wait on it; that is enough for calls that run at the same time, as each
    wait takes in the frames of all.
    """

    def __init__(
        self, ws: WebSocketConnection, *, first_id: int = 1, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.ws = ws
        self.ledger = Ledger()
        self._ids = itertools.count(first_id)
        self._patience = patience

    def next_id(self) -> int:
        """Take the next request id."""
        return next(self._ids)

    async def send(
        self,
        method: str,
        params: object = OMITTED,
        *,
        subscribes: bool = True,
        unsubscribes: Call | None = None,
        request_id: int | None = None,
    ) -> Call:
        """Send a request and do not wait for anything."""
        request_id = self.next_id() if request_id is None else request_id
        call = Call(
            request_id=request_id, method=method, subscribes=subscribes, unsubscribes=unsubscribes
        )
        request = {"jsonrpc": "2.0", "id": request_id, "method": method}
        with _gone_is_a_violation():
            self.ledger.sent(call)
            await self.ws.send_message(
                json.dumps(request if params is OMITTED else {**request, "params": params})
            )
        return call

    async def acknowledged(self, call: Call) -> None:
        """Wait for the answer to a call.

        Raises:
            RefusedError: It is a JSON-RPC error.
            ViolationError: The server broke a rule, or said nothing.
        """
        while call.response is None:
            await self._take_in(f"answer to {call.method}")
        if call.response.error is not None:
            raise RefusedError(call.method, call.response.error)

    async def next_item(self, call: Call) -> Item:
        """Wait for the next item of a stream; its last one is not data."""
        await self.acknowledged(call)
        while call.read == len(call.items):
            await self._take_in(f"item of {call.method} ({call.subscription})")
        call.read += 1
        return call.items[call.read - 1]

    async def first_data(self, call: Call) -> Data | None:
        """Wait for the first data item and read no further; None where there is none.

        Raises:
            StreamFailedError: The stream ends with an error.
        """
        item = await self.next_item(call)
        if isinstance(item, Failure):
            raise StreamFailedError(call.method, item)
        return None if isinstance(item, Done) else item

    async def all_data(self, call: Call) -> list[Data]:
        """Read a stream to its `done`.

        Raises:
            StreamFailedError: It ends with an error.
        """
        data = []
        while (item := await self.first_data(call)) is not None:
            data.append(item)
        return data

    async def result(self, call: Call) -> object:
        """Wait for the result of a plain call."""
        await self.acknowledged(call)
        return None if call.response is None else call.response.result

    async def settle(self) -> None:
        """See that all calls came to their ends, and that nothing more is on the way.

        What the server has sent by now arrives before its pong.
        """
        while self.ledger.unended:
            await self._take_in(f"end of {[call.method for call in self.ledger.unended]}")
        with _gone_is_a_violation(), self._patient("pong"):
            await self.ws.ping()
        with trio.move_on_after(0.01):
            while True:
                with _gone_is_a_violation():
                    frame = await self.ws.get_message()
                self.ledger.received(frame)
        self.ledger.close()

    async def _take_in(self, what: str) -> None:
        with _gone_is_a_violation(), self._patient(what):
            frame = await self.ws.get_message()
        self.ledger.received(frame)

    @contextmanager
    def _patient(self, what: str) -> Iterator[None]:
        try:
            with trio.fail_after(self._patience):
                yield
        except trio.TooSlowError:
            raise ViolationError(f"no {what} within {self._patience} s: a client hangs") from None


@contextmanager
def _gone_is_a_violation() -> Iterator[None]:
    """A server answers errors, it does not leave."""
    try:
        yield
    except ConnectionClosed as closed:
        raise ViolationError(f"the server closed the connection: {closed.reason}") from closed


@asynccontextmanager
async def open_wire(
    host: str,
    port: int,
    *,
    headers: Mapping[str, str] | None = None,
    connect_seconds: float = CONNECT_SECONDS,
    patience: float = PATIENCE_SECONDS,
    first_id: int = 1,
    bye: tuple[int, str] | None = None,
) -> AsyncIterator[WebSocket]:
    """Open a connection to `ws://host:port/`.

    Args:
        host: Whom to call.
        port: Where.
        headers: More headers of the upgrade.
        connect_seconds: The limit for connection and upgrade together.
        patience: How long any one frame may take, in seconds.
        first_id: The first request id.
        bye: Code and reason to close with; None leaves without a word, as a process that exits.

    Raises:
        UnreachableError: There is no WebSocket.
    """
    extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    stream: trio.SocketStream | None = None
    try:
        with lone_error():
            async with trio.open_nursery() as nursery:
                try:
                    with trio.fail_after(connect_seconds):
                        stream = await trio.open_tcp_stream(host, port)
                        ws = await wrap_client_stream(
                            nursery,
                            stream,
                            f"{host}:{port}",
                            "/",
                            extra_headers=extra,
                            message_queue_size=_QUEUE,
                        )
                except (OSError, HandshakeError, ConnectionClosed, trio.TooSlowError) as error:
                    raise UnreachableError(f"{host}:{port}: {error!r}") from error
                yield WebSocket(ws, first_id=first_id, patience=patience)
                if bye is not None:
                    with trio.move_on_after(connect_seconds):
                        await ws.aclose(*bye)
                nursery.cancel_scope.cancel()
    finally:
        if stream is not None:
            await trio.aclose_forcefully(stream)


@contextmanager
def lone_error() -> Iterator[None]:
    """Raise the one error of a group bare, so that callers write plain `except`."""
    lone: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        lone = group
        while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
            lone = lone.exceptions[0]
    # Raised outside of the handler, where nothing would replace its context.
    if lone is not None:
        raise lone
