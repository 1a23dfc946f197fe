"""The exceptions of the registry, and the error codes that callers see.

A `CallError` is the answer to a call that failed: a `ProtocolError` if the request breaks the
protocol, a `MethodError` if a method refuses. A client makes the exception again from its code
(`rebuilt`), and raises `RegistryUnavailableError` if there is no answer at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHOWN = 80
MAX_SHOWN_NAME = 128


def shown(value: object) -> str:
    """Show a caller's value in a message: on one line, escaped, bounded in length."""
    # Escaping never shortens a text, so it can be cut before.
    text = _as_text(value)[: MAX_SHOWN + 1]
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return printable if len(printable) <= MAX_SHOWN else printable[: MAX_SHOWN - 3] + "..."


def _as_text(value: object) -> str:
    if isinstance(value, float):
        return repr(value)  # JSON has no text for nan and inf
    if isinstance(value, (str, bytes)):
        value = value[: MAX_SHOWN + 1]
    for write in (_as_json, ascii):
        try:
            return write(value)
        except (TypeError, ValueError, RecursionError):
            continue  # no JSON; too deep, or a number too long, for either
    return f"<{type(value).__name__}>"


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def clipped(word: str) -> str:
    """Bound the length of a caller's word in a message."""
    return word if len(word) <= MAX_SHOWN_NAME else f"{word[:MAX_SHOWN_NAME]}..."


class RegistryError(Exception):
    """The root of all errors that this package raises on purpose."""


class StartError(RegistryError):
    """The registry cannot start; the message says why and what to do, on one line."""


class TokenError(RegistryError):
    """A file or variable holds no token that can be used; the message does not show it."""


class ConfigError(RegistryError):
    """A declaration of backends (config file or environment) that breaks a rule.

    Attributes:
        origin: The file's path or the environment variable's name.
        line: The line in the file, counted from 1; None if it is not known.
        reason: The fault, with field, value and rule.
    """

    def __init__(self, origin: str, line: int | None, reason: str) -> None:
        self.origin = origin
        self.line = line
        self.reason = reason
        super().__init__(f"{origin}{f', line {line}' if line else ''}: {reason}")


class CallError(RegistryError):
    """A call that failed: the request is wrong, or the answer is no.

    Attributes:
        code: The error code on the wire. Source: manual/methods.md, "Errors".
        data: What the caller needs to act; `code` in it is a word.
        limit: The name of the limit that the request exceeds, or empty.
    """

    code: int
    word: str
    limit: str = ""

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.data: Mapping[str, object] = {"code": self.word, **data}


class ProtocolError(CallError):
    """A request that breaks JSON-RPC 2.0 or a method's parameter list."""


class ParseError(ProtocolError):
    """The frame is not JSON."""

    code, word = -32700, "parse_error"


class InvalidRequestError(ProtocolError):
    """The frame is JSON, but not a request."""

    code, word = -32600, "invalid_request"


class MethodNotFoundError(ProtocolError):
    """No method has that name."""

    code, word = -32601, "method_not_found"


class InvalidParamsError(ProtocolError):
    """A parameter is missing, unknown, or breaks its rule."""

    code, word = -32602, "invalid_params"


class InternalError(ProtocolError):
    """A bug in the registry; the log has the details."""

    code, word = -32603, "internal_error"


class BatchTooLargeError(ProtocolError):
    """More requests in one batch than the server takes."""

    code, word, limit = -32010, "batch_too_large", "batch_requests"


class NestingLimitError(ParseError):
    """JSON that is nested more deeply, or has more values, than the server reads."""

    limit = "nesting"


class AnswerLimitError(ProtocolError):
    """A batch whose answers would be more than the server keeps for one reader."""

    code, word = -32008, "response_too_large"


class SubscriptionLimitError(ProtocolError):
    """More live streams on one connection than the server keeps."""

    code, word, limit = -32006, "limit_exceeded", "subscriptions"


class WebSocketNeeded(ProtocolError):
    """Only a WebSocket can carry what was asked for."""

    code, word = -32011, "websocket_needed"

    def __init__(self, method: str) -> None:
        super().__init__(
            f"{clipped(method)} is a subscription, and HTTP cannot carry its events: connect with a"
            " WebSocket client to this port"
        )


class MethodError(CallError):
    """A method's refusal: the request was right, the answer is no."""


class NotFound(MethodError):
    """No backend has that name."""

    code, word = -32001, "not_found"

    def __init__(self, name: str) -> None:
        name = clipped(name)
        super().__init__(f"Backend not found: {name}", name=name)


class NameTaken(MethodError):
    """A live backend at another address holds the name; `data.holder` shows it."""

    code, word = -32002, "name_taken"


class ConfigInvalid(MethodError):
    """The config file is invalid; its last valid content still holds."""

    code, word = -32003, "config_invalid"

    def __init__(self, error: ConfigError) -> None:
        super().__init__(
            f"Config file is invalid, nothing was changed: {error}",
            path=error.origin,
            line=error.line,
            reason=error.reason,
        )


class StorageFailed(MethodError):
    """The change could not be made durable, and was not made.

    `data.outcome` is `unknown` where the database may hold the change all the same, until the
    registry has repaired it. Without it, nothing of the change is left.
    """

    code, word = -32004, "storage_failed"

    def __init__(self, reason: str, *, is_unknown: bool = False) -> None:
        message = f"Not saved, nothing was changed: {reason}"
        if is_unknown:
            super().__init__(f"{message}; {_UNKNOWN_OUTCOME}", reason=reason, outcome="unknown")
        else:
            super().__init__(message, reason=reason)

    @property
    def reason(self) -> str:
        """What went wrong with the disk."""
        return str(self.data.get("reason", self.message))

    @property
    def is_unknown(self) -> bool:
        """Whether a crash before the repair could still show the change."""
        return self.data.get("outcome") == "unknown"


_UNKNOWN_OUTCOME = (
    "if the registry stops before it has repaired the database, which it tries every second,"
    " the change can still show after the restart; try again once /healthz says that storage is ok"
)


class Unauthorized(MethodError):
    """Without a token, or with this one, only reading is allowed."""

    code, word = -32005, "unauthorized"

    def __init__(self) -> None:
        super().__init__("Only looking is allowed here: changes need the token that allows them")


class RegistryUnavailableError(RegistryError):
    """No answer: the registry cannot be reached, or the connection was lost.

    Whether a call that was under way took effect is not known.
    """


class UrlError(RegistryError):
    """A client cannot connect to such a URL."""


class WatchEnded(RegistryError):
    """A watch was cut off; a new one can continue it.

    Attributes:
        message: Why.
        code: The same as a word, such as `too_slow`.
        revision: The last revision that was reported; give it as `since` to resume. None where
            nothing was reported yet.
    """

    def __init__(self, message: str, code: str, revision: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.revision = revision


_BY_CODE: Mapping[int, type[CallError]] = {
    kind.code: kind
    for kind in (
        ParseError,
        InvalidRequestError,
        MethodNotFoundError,
        InvalidParamsError,
        InternalError,
        NotFound,
        NameTaken,
        ConfigInvalid,
        StorageFailed,
        Unauthorized,
        AnswerLimitError,
        SubscriptionLimitError,
        BatchTooLargeError,
        WebSocketNeeded,
    )
}


def rebuilt(code: int, message: str, data: Mapping[str, object] | None) -> CallError:
    """Make the exception of an error object that came over the wire.

    A code that is not known here makes a plain `MethodError`.
    """
    kind = _BY_CODE.get(code, MethodError)
    error = kind.__new__(kind, message)  # each kind's own __init__ makes a message of its own
    error.message = message
    error.data = data or {}
    if kind is MethodError:
        error.code = code
        error.word = str(error.data.get("code", "unknown"))
    return error
