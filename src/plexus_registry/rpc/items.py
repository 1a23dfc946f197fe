"""The items of a Plexus stream, and the frames that carry them.

A stream is acknowledged with a number, then its items follow: any number of `data`, and last
either one `done` or one `error`. All items of a stream share their metadata.

Source: manual/protocol.md, "Stream items".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plexus_registry.rules.events import encode_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a call could not be routed or carried out, readable by clients of every generation.

    Attributes:
        message: For people.
        code: The JSON-RPC code, as the text that old clients read.
        detail: The typed error that new clients read; its `kind` is also `error_kind`.
    """

    message: str
    code: int
    detail: Mapping[str, object]


def metadata(provenance: str, plexus_hash: str, now: int) -> str:
    """Encode what all items of a stream share; `now` is in Unix seconds."""
    return f'{{"provenance":["{provenance}"],"plexus_hash":"{plexus_hash}","timestamp":{now}}}'


def data_item(shared: str, content_type: str, content: str) -> str:
    """Encode one result; `content` is JSON text."""
    return (
        f'{{"type":"data","metadata":{shared},"content_type":"{content_type}","content":{content}}}'
    )


def done_item(shared: str) -> str:
    """Encode the good end of a stream."""
    return f'{{"type":"done","metadata":{shared}}}'


def error_item(shared: str, failure: CallFailure, *, with_code: bool = True) -> str:
    """Encode the bad end of a stream."""
    code = f'"code":"{failure.code}",' if with_code else ""
    return (
        f'{{"type":"error","metadata":{shared},"message":{encode_value(failure.message)},{code}'
        f'"error_kind":{encode_value(failure.detail["kind"])},'
        f'"error":{encode_value(failure.detail)},"recoverable":false}}'
    )


def notifications(method: str, subscription: int, items: Sequence[str]) -> list[str]:
    """Wrap the items of one stream in their frames."""
    head = f'{{"jsonrpc":"2.0","method":"{method}","params":{{"subscription":{subscription}'
    return [f'{head},"result":{item}}}}}' for item in items]
