"""The bench's own conversations with a server: all that is not measured load."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

CONNECTIONS = 32
REPLY_SECONDS = 60

T = TypeVar("T")


class Mailbox(WSListener):
    """Queues what arrives; None says that the server has gone."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[str | None] = asyncio.Queue()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        self.frames.put_nowait(frame.get_payload_as_utf8_text())

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        self.frames.put_nowait(None)


def ask(url: str, frame: str) -> list[str]:
    """Send one request and return the frames of its reply."""
    return asyncio.run(_exchange(url, [frame]))[0]


def tell(url: str, frames: Sequence[str]) -> None:
    """Send many requests over several connections, and check that none is answered by an error."""

    async def share() -> list[list[list[str]]]:
        shares = [frames[start::CONNECTIONS] for start in range(min(CONNECTIONS, len(frames)))]
        return await asyncio.gather(*(_exchange(url, each) for each in shares))

    for replies in asyncio.run(share()):
        for reply in replies:
            for text in reply:
                if '"error"' in text:
                    raise RuntimeError(f"{url} refused a request: {text[:300]}")


def while_connected(url: str, count: int, measure: Callable[[], T]) -> T:
    """Open idle connections and return what `measure` finds while they are open."""

    async def hold() -> T:
        transports: list[WSTransport] = []
        try:
            while len(transports) < count:
                transport, _ = await ws_connect(Mailbox, url)
                transports.append(transport)
            return measure()
        finally:
            for transport in transports:
                transport.disconnect()

    return asyncio.run(hold())


def hub_name(url: str) -> str | None:
    """Ask a server for its Plexus hub; None when it does not speak that way."""
    request = '{"jsonrpc":"2.0","id":1,"method":"_info","params":null}'
    for text in ask(url, request):
        item = json.loads(text).get("params", {}).get("result", {})
        if item.get("type") == "data":
            return str(item["content"]["backend"])
    return None


async def _exchange(url: str, frames: Sequence[str]) -> list[list[str]]:
    """Send each frame when the reply to the one before is complete."""
    transport, mailbox = await ws_connect(Mailbox, url)
    assert isinstance(mailbox, Mailbox)
    replies = []
    try:
        for frame in frames:
            transport.send(WSMsgType.TEXT, frame.encode())
            reply: list[str] = []
            async with asyncio.timeout(REPLY_SECONDS):
                while not reply or _more_follows(reply[-1]):
                    text = await mailbox.frames.get()
                    if text is None:
                        raise RuntimeError(f"{url} closed the connection")
                    reply.append(text)
            replies.append(reply)
    finally:
        transport.disconnect()
    return replies


def _more_follows(text: str) -> bool:
    """Tell whether a frame is a Plexus acknowledgement or an item before the last."""
    message = json.loads(text)
    if not isinstance(message, dict):
        return False
    if "params" in message:
        return message["params"]["result"]["type"] in ("data", "progress")
    return isinstance(message.get("result"), int)
