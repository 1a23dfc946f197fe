"""The streams of one connection, as a strict client keeps account of them.

Theory of operation: a call is a request with an integer id. Its answer is an acknowledgement,
the subscription id, and then its items arrive until one `done` or `error`. A call whose stream
ended stays in the ledger, so that whatever arrives under its id after that is found out.

    sent --ack--> open --items--> open --done | error | unsubscribed--> ended
      `--error response--> refused

Source: manual/protocol.md, "Subscriptions".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.e2e.peers.frames import (
    Data,
    Item,
    Notification,
    Response,
    ViolationError,
    read_frame,
    read_subscription,
)


@dataclass(slots=True, kw_only=True)
class Call:
    """One request of ours, and what came back so far.

    Attributes:
        subscription: The id of its stream, once acknowledged.
        names: The notification names that its items came under.
        items: Its items in order; those that nobody has read yet from `read` on.
    """

    request_id: int
    method: str
    subscribes: bool
    unsubscribes: Call | None = None
    response: Response | None = None
    subscription: int | None = None
    names: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    read: int = 0
    is_ended: bool = False


class Ledger:
    """What a client knows of one connection: pure, frames go in and calls change."""

    def __init__(self) -> None:
        self._by_request: dict[int, Call] = {}
        self._by_subscription: dict[int, Call] = {}
        self._dropped: list[int] = []
        self._plexus_hash: str | None = None

    def sent(self, call: Call) -> None:
        """Note a request."""
        self._by_request[call.request_id] = call

    def received(self, text: str | bytes) -> None:
        """Note a frame.

        Raises:
            ViolationError: The server may not send it now, or never.
        """
        frame = read_frame(text)
        if isinstance(frame, Response):
            self._note_response(frame)
        else:
            self._note_item(frame)

    def _note_response(self, response: Response) -> None:
        request_id = response.id
        known = isinstance(request_id, int) and not isinstance(request_id, bool)
        call = self._by_request.get(request_id) if known and isinstance(request_id, int) else None
        if call is None:
            raise ViolationError(f"an answer to id {request_id!r}, which was never sent")
        if call.response is not None:
            raise ViolationError(f"a second answer to id {call.request_id}")
        call.response = response
        if response.error is not None:
            return
        if call.subscribes:
            self._acknowledge(call, read_subscription(response.result, "acknowledgement"))
        elif call.unsubscribes is not None:
            _note_unsubscribed(call.unsubscribes, response.result)

    def _acknowledge(self, call: Call, subscription: int) -> None:
        if subscription in self._by_subscription:
            raise ViolationError(f"subscription id {subscription} is used again")
        if subscription in self._dropped:
            raise ViolationError(f"an item of {subscription} came before its acknowledgement")
        call.subscription = subscription
        self._by_subscription[subscription] = call

    def _note_item(self, notification: Notification) -> None:
        call = self._by_subscription.get(notification.subscription)
        if call is None:
            # Haskell prints `Unknown subscription` and drops it; the acknowledgement, or the
            # end of the connection, shows what it was.
            self._dropped.append(notification.subscription)
            return
        item = notification.item
        if call.is_ended:
            raise ViolationError(f"{item} after the end of {call.method} ({call.subscription})")
        self._compare_metadata(call, item)
        call.names.append(notification.method)
        call.items.append(item)
        call.is_ended = not isinstance(item, Data)

    def _compare_metadata(self, call: Call, item: Item) -> None:
        plexus_hash = item.metadata.plexus_hash
        if self._plexus_hash not in {None, plexus_hash}:
            raise ViolationError(f"plexus_hash was {self._plexus_hash}, now it is {plexus_hash}")
        self._plexus_hash = plexus_hash
        if call.items and call.items[0].metadata.timestamp != item.metadata.timestamp:
            raise ViolationError(f"two timestamps in one stream: {call.items[0]}, {item}")

    @property
    def unended(self) -> list[Call]:
        """The calls that were not answered, or whose streams have not ended."""
        return [call for call in self._by_request.values() if not _is_over(call)]

    def close(self) -> None:
        """Insist that everything came to its end.

        Raises:
            ViolationError: A call is open, or an item belonged to none.
        """
        if self._dropped:
            raise ViolationError(f"items of unknown subscriptions {self._dropped}")
        if self.unended:
            raise ViolationError(f"neither done nor error: {self.unended}")


def _note_unsubscribed(stream: Call, result: object) -> None:
    if not isinstance(result, bool):
        raise ViolationError(f"unsubscribing gave {result!r}, not true or false")
    if result and stream.is_ended:
        raise ViolationError(f"{stream.method} ({stream.subscription}) had ended, and was live")
    # False says that the stream is over: its end may still be on the way, and must come.
    stream.is_ended = stream.is_ended or result


def _is_over(call: Call) -> bool:
    if call.response is None:
        return False
    return call.is_ended or not call.subscribes or call.response.error is not None
