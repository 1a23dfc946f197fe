"""What the verbs have in common: their options, their one call of a registry, how they fail.

Trio and the client library are imported in functions: the help of a verb does not need them.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

from plexus_registry.cli.display import echo_json, escaped
from plexus_registry.client import DEFAULT_URL
from plexus_registry.rules.backend import DECLARABLE, FIELDS, OPTIONAL, Backend
from plexus_registry.rules.errors import (
    CallError,
    InvalidParamsError,
    MethodNotFoundError,
    NameTaken,
    NotFound,
    RegistryUnavailableError,
    TokenError,
    UrlError,
)
from plexus_registry.rules.parameters import SECONDS
from plexus_registry.settings import MIN_TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from plexus_registry.rules.events import Event
    from plexus_registry.rules.parameters import Values

EXIT_NO = 1
EXIT_USAGE = 2
EXIT_NO_ANSWER = 3
FILE = click.Path(dir_okay=False, path_type=Path)
TOKEN_VARIABLE = "REGISTRY_TOKEN"  # noqa: S105 - its name, not the token
_MAX_TOKEN = 4096
PORT = click.IntRange(1, 65535)
PROTOCOL = click.Choice(["ws", "wss"])

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound="Event")


class VerbError(click.ClickException):
    """The failure of a verb: one line on standard error, and an exit status."""

    def __init__(self, message: str, exit_code: int = EXIT_NO) -> None:
        super().__init__(escaped(message))
        # In click it belongs to the class; it is read from the instance.
        self.exit_code = exit_code  # type: ignore[misc]  # a ClassVar there


@dataclass(slots=True)
class Session:
    """The values of the options that all verbs share; `timeout` is in seconds."""

    url: str = DEFAULT_URL
    token_file: Path | None = None
    timeout: float = 5.0
    as_json: bool = False

    @property
    def token(self) -> str | None:
        """The token; it never comes from the command line, which `ps` shows."""
        try:
            return read_token(self.token_file, TOKEN_VARIABLE)
        except TokenError as error:
            raise VerbError(str(error), EXIT_USAGE) from error


def read_token(path: Path | None, variable: str) -> str | None:
    """Read a token from a file, or without one from an environment variable.

    Returns:
        The token, or None if no file is named and the variable is unset or empty.

    Raises:
        TokenError: There is no valid token, or other users may read the file.
    """
    if path is None:
        text = os.environ.get(variable, "")
        return _checked_token(text, origin=variable) if text else None
    try:
        # Not blocking, because opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise TokenError(f"cannot read the token in {path}: it is not a plain file")
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise TokenError(
                    f"cannot use the token in {path}: other users may read it, its mode is"
                    f" {stat.S_IMODE(mode):04o}; run: chmod 600 {path}"
                )
            text = file.read(_MAX_TOKEN + 2)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TokenError(f"cannot read the token in {path}: {reason}") from error
    return _checked_token(text, origin=str(path))


def _checked_token(text: str, *, origin: str) -> str:
    """Return the token in a text; error messages do not show the text."""
    token = text.strip()
    if not token or len(token) > _MAX_TOKEN or not (token.isascii() and token.isprintable()):
        raise TokenError(f"{origin} holds no token: a token is one line of ASCII")
    if len(token) < MIN_TOKEN:
        raise TokenError(
            f"{origin} holds a token of fewer than {MIN_TOKEN} characters, which can be guessed:"
            " make one with `openssl rand -hex 32`"
        )
    return token


def keep_rule(values: Values) -> Callable[[click.Context, click.Parameter, T], T]:
    """Make the callback of an option whose value must keep a rule."""

    def check(_ctx: click.Context, _param: click.Parameter, value: T) -> T:
        if not values.accepts(value):
            raise click.BadParameter(f"{value!r} must be {values.rule}")
        return value

    return check


def _store(ctx: click.Context, param: click.Parameter, value: object) -> None:
    setattr(ctx.ensure_object(Session), str(param.name), value)


def _store_seconds(ctx: click.Context, param: click.Parameter, value: float) -> None:
    _store(ctx, param, keep_rule(SECONDS)(ctx, param, value))


_session_option = partial(click.option, expose_value=False)
_pass_session = click.make_pass_decorator(Session, ensure=True)
_url_option = _session_option(
    "--url",
    default=DEFAULT_URL,
    envvar="REGISTRY_URL",
    show_envvar=True,
    show_default=True,
    callback=_store,
    help="The registry to ask.",
)
_token_option = _session_option(
    "--token-file",
    type=FILE,
    callback=_store,
    help=f"The file with the token, if the registry wants one; or set {TOKEN_VARIABLE}.",
)
timeout_option = _session_option(
    "--timeout",
    type=float,
    default=Session().timeout,
    show_default=True,
    metavar="SECONDS",
    callback=_store_seconds,
    help="How long the whole answer may take.",
)
_json_option = _session_option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_store,
    help="Print the registry's answer as one line of JSON.",
)


def address_options(function: Callable[Concatenate[Session, P], None]) -> Callable[P, None]:
    """Add the options that name a registry and the token for it, and pass the session."""
    return _url_option(_token_option(_pass_session(function)))


def client_options(function: Callable[Concatenate[Session, P], None]) -> Callable[P, None]:
    """Add the options of the verbs that ask a registry, and pass the session."""
    return address_options(timeout_option(_json_option(function)))


def _field_options(helps: dict[str, str]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Make the decorator that adds an option for each field, with its help."""

    def add(function: Callable[P, None]) -> Callable[P, None]:
        types = {"port": PORT, "protocol": PROTOCOL}
        for name, text in reversed(helps.items()):
            function = click.option(f"--{name}", type=types.get(name), help=text)(function)
        return function

    return add


detail_options = _field_options({name: FIELDS[name].doc for name in DECLARABLE if name in OPTIONAL})
"""Adds an option for each field that a config file may state beside name and address."""
change_options = _field_options(
    {field.name: field.new for field in FIELDS.values() if field.new is not None}
)
"""Adds an option for each field that an update can change."""


def call(session: Session, verb: str, kind: type[E], **params: object) -> E:
    """Call a method of the registry, and print its answer if a program reads the output.

    `verb` is the method without its namespace, and `kind` the event that answers it. Only
    parameters with a value are sent.

    Raises:
        VerbError: There is no connection, no answer, or the answer is no.
    """
    import trio

    from plexus_registry.client.connection import connect, decode_answer

    method = f"registry.{verb}"
    given = {name: value for name, value in params.items() if value is not None}
    answers: list[object] = []

    async def ask() -> None:
        with trio.move_on_after(session.timeout):
            async with connect(session.url, token=session.token) as client:
                answers.append(await client.call(method, given))
        # An answer that came in time counts, even if closing the connection took too long.
        if not answers:
            raise trio.TooSlowError

    with failures_explained(session):
        trio.run(ask)
        event = decode_answer(answers[0], kind, method)
    if session.as_json:
        echo_json(answers[0])  # with all members, also those of a newer registry
    return event


@contextmanager
def failures_explained(session: Session) -> Iterator[None]:
    """Turn the errors of a call into a line that says what to do next, and an exit status."""
    import trio

    from plexus_registry.client.socket import without_secrets

    where = without_secrets(session.url)
    try:
        yield
    except UrlError as error:
        raise VerbError(f"{error}, with --url or in REGISTRY_URL", EXIT_USAGE) from error
    except trio.TooSlowError as error:
        raise VerbError(
            f"no answer from {where} within {session.timeout:g} s; is it a registry, and does it"
            " run? --timeout waits longer, --url names another",
            EXIT_NO_ANSWER,
        ) from error
    except RegistryUnavailableError as error:
        raise VerbError(_unreachable(where, str(error)), EXIT_NO_ANSWER) from error
    except InvalidParamsError as error:
        raise VerbError(error.message, EXIT_USAGE) from error
    except CallError as error:
        raise VerbError(_refusal(error)) from error


def _unreachable(where: str, reason: str) -> str:
    reason = reason.replace("cannot connect to", "cannot reach a registry at", 1)
    if where not in reason:
        reason = f"{where}: {reason}"
    if "HTTP status 401" in reason or "HTTP status 403" in reason:
        return f"{reason}; give the token in {TOKEN_VARIABLE} or with --token-file"
    return f"{reason}; start one with trio-registry, or name another with --url"


def _refusal(error: CallError) -> str:
    match error:
        case NameTaken(data={"holder": Backend() as holder}):
            return (
                f"{holder.name} is taken by a live backend at {holder.url}: deregister or delete"
                " it first, or take the name with --replace"
            )
        case NotFound():
            return f"{error.message}; trio-registry list --all shows those that there are"
        case MethodNotFoundError():
            return f"{error.message}: that registry is older than this command; update it"
        case _:
            return error.message
