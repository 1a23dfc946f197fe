"""Calls of the client verbs: one connection, one answer, and one line for each failure.

Importing it loads Trio, so verbs import it when they run.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from plexus_registry.cli.display import echo_json
from plexus_registry.cli.session import EXIT_NO_ANSWER, EXIT_USAGE, VerbError
from plexus_registry.client.connection import connect
from plexus_registry.client.socket import without_secrets
from plexus_registry.rules.backend import Backend
from plexus_registry.rules.errors import (
    CallError,
    InvalidParamsError,
    MethodNotFoundError,
    NameTaken,
    NotFound,
    RegistryUnavailableError,
    UrlError,
)
from plexus_registry.rules.events import Event
from plexus_registry.server.token_file import TOKEN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plexus_registry.cli.session import Session


E = TypeVar("E", bound=Event)


def call(session: Session, method: str, kind: type[E], **params: object) -> E:
    """Call a method of the registry, and print its answer if a program reads the output.

    Args:
        session: The values of the common options.
        method: The method, without its namespace.
        kind: The event that answers it.
        params: The parameters; those that are None are not sent.

    Raises:
        VerbError: There is no connection, no answer, or the answer is no.
    """
    given = {name: value for name, value in params.items() if value is not None}
    with failures_explained(session):
        answer = trio.run(_answer, session, f"registry.{method}", given)
        try:
            event = msgspec.convert(answer, kind)
        except msgspec.ValidationError as error:
            raise RegistryUnavailableError(f"the answer makes no sense: {error}") from error
    if session.as_json:
        echo_json(answer)  # with all members, also those of a newer registry
    return event


async def _answer(session: Session, method: str, params: Mapping[str, object]) -> object:
    token = session.token
    answers: list[object] = []
    with trio.move_on_after(session.timeout):
        async with connect(session.url, token=token) as client:
            answers.append(await client.call(method, params))
    # An answer that came in time counts, even if closing the connection took too long.
    if not answers:
        raise trio.TooSlowError
    return answers[0]


@contextmanager
def failures_explained(session: Session) -> Iterator[None]:
    """Turn the errors of a call into a line that says what to do next, and an exit status."""
    try:
        yield
    except UrlError as error:
        raise VerbError(f"{error}, with --url or in REGISTRY_URL", EXIT_USAGE) from error
    except trio.TooSlowError as error:
        raise VerbError(
            f"no answer from {without_secrets(session.url)} within {session.timeout:g} s;"
            " is it a registry, and does it run? --timeout waits longer, --url names another",
            EXIT_NO_ANSWER,
        ) from error
    except RegistryUnavailableError as error:
        raise VerbError(_unreachable(session, str(error)), EXIT_NO_ANSWER) from error
    except InvalidParamsError as error:
        raise VerbError(error.message, EXIT_USAGE) from error
    except MethodNotFoundError as error:
        hint = "that registry is older than this command; update it"
        raise VerbError(f"{error.message}: {hint}") from error
    except CallError as error:
        raise VerbError(_refusal(error)) from error


def _unreachable(session: Session, reason: str) -> str:
    reason = reason.replace("cannot connect to", "cannot reach a registry at", 1)
    where = without_secrets(session.url)
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
        case _:
            return error.message
