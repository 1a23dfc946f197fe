"""The one table of the registry's methods, their commands, and how a call becomes a command.

Everything that depends on a method (routing, dispatch, schemas, documentation) reads it here. The
verb of the same name of `Registry` carries a method out; `watch`, which is a stream, has none.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.errors import MAX_SHOWN_NAME, InvalidParamsError, shown
from plexus_registry.rules.parameters import (
    ANY_STRING,
    BOOLEAN,
    KNOWN_NAME,
    REVISION,
    Command,
    Parameter,
    Values,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMESPACE = "registry"

MAX_HISTORY = 1000
HISTORY_LIMIT = Values(
    f"an integer from 1 to {MAX_HISTORY}",
    lambda value: type(value) is int and 1 <= value <= MAX_HISTORY,
    {"type": "integer", "minimum": 1, "maximum": MAX_HISTORY},
)
"""The most changes in one answer."""


class _OfName(Command, frozen=True):
    """A command whose only parameter is the name of a backend."""

    parameters: ClassVar[tuple[Parameter, ...]] = (KNOWN_NAME,)

    name: str


class Delete(_OfName, frozen=True):
    """Delete a backend."""


class Deregister(_OfName, frozen=True):
    """Make a backend inactive; its record stays."""


class Ping(_OfName, frozen=True):
    """Report that a backend is alive."""


class Check(_OfName, frozen=True):
    """Probe a backend now."""


class Get(_OfName, frozen=True):
    """Ask for one effective backend."""


class List(Command, frozen=True):
    """Ask for all effective backends."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("active_only", BOOLEAN, "`true` (the default) leaves out inactive backends."),
    )

    active_only: bool = True


class Reload(Command, frozen=True):
    """Read the config file now."""


class Watch(Command, frozen=True):
    """Follow the changes."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("since", REVISION, "Only what happened after this revision, without a snapshot."),
        Parameter("name", ANY_STRING, "Only what happens to this backend."),
        Parameter("namespace", ANY_STRING, "Only what happens to backends of this namespace."),
    )

    since: int | None = None
    name: str | None = None
    namespace: str | None = None


class History(Command, frozen=True):
    """Ask for the last changes."""

    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("name", ANY_STRING, "Only what happened to this backend."),
        Parameter("namespace", ANY_STRING, "Only what happened to backends of this namespace."),
        Parameter("before", REVISION, "Only what happened before this revision."),
        Parameter("limit", HISTORY_LIMIT, "How many changes at most; by default 100."),
    )

    name: str | None = None
    namespace: str | None = None
    before: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the registry; its parameters are those of its command.

    Attributes:
        name: Without the namespace.
        doc: Its purpose, in a sentence.
        streaming: Whether its reports go on until the caller unsubscribes.
        writes: Whether callers need write access.
    """

    name: str
    doc: str
    command: type[Command]
    streaming: bool = False
    writes: bool = True

    @property
    def names(self) -> list[str]:
        """The names of its parameters, in order."""
        return [parameter.name for parameter in self.command.parameters]


METHODS: tuple[Method, ...] = (
    Method("register", "Register a backend under a name.", Register),
    Method("list", "List the backends, newest first.", List, writes=False),
    Method("get", "Find one backend by name.", Get, writes=False),
    Method("update", "Change the fields that are given.", Update),
    Method("delete", "Delete a backend until it is registered again.", Delete),
    Method(
        "deregister",
        "Make a backend inactive until it registers or pings again; its entry stays.",
        Deregister,
    ),
    Method("ping", "Report that a backend is alive.", Ping),
    Method("check", "Probe a backend now, and show each step.", Check),
    Method("reload", "Read the config file now.", Reload),
    Method("history", "List the last changes, newest first.", History, writes=False),
    Method("watch", "Follow the changes.", Watch, streaming=True, writes=False),
)
BY_NAME: dict[str, Method] = {method.name: method for method in METHODS}
BY_COMMAND: dict[type[Command], Method] = {method.command: method for method in METHODS}


def nearest(word: str, known: Iterable[str], *, least: float = 0.0) -> str | None:
    """Find the known word that is most like a mistyped one.

    It shares the most pairs of letters with it. Only that one is compared letter by letter, because
    callers decide how often this is done.

    Args:
        word: The mistyped word.
        known: The words to choose from.
        least: How similar it must be, from 0 (anything) to 1 (equal).
    """
    word = word[:MAX_SHOWN_NAME]
    bits, masks = _pairs_of(tuple(known))
    mask = 0
    for pair in _pairs(word):
        mask |= bits.get(pair, 0)
    best, most = None, -1.0
    for candidate, its_mask in masks:
        likeness = (mask & its_mask).bit_count() / (len(word) + len(candidate) + 1)
        if likeness > most:
            best, most = candidate, likeness
    if best is None or least == 0:
        return best
    # No ratio can be above this one: it is not worth computing for a word that is far too long.
    if 2 * min(len(word), len(best)) < least * (len(word) + len(best)):
        return None
    return best if difflib.SequenceMatcher(None, best, word).ratio() >= least else None


def _pairs(word: str) -> Iterable[str]:
    """Split a word into its pairs of neighbouring letters, the first with a blank before it."""
    return map("".join, zip(f" {word}", word, strict=False))


@lru_cache(maxsize=64)
def _pairs_of(known: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Number the pairs of letters of known words, and make the set of each word's as bits."""
    bits: dict[str, int] = {}
    masks = []
    for word in known:
        mask = 0
        for pair in _pairs(word):
            mask |= bits.setdefault(pair, 1 << len(bits))
        masks.append((word, mask))
    return bits, masks


def command_from(method: Method, params: object, *, ignore_unknown: bool = False) -> Command:
    """Make the command of a call.

    Args:
        method: The method that is called.
        params: The `params` member as it was decoded; None if it is absent or null.
        ignore_unknown: Whether members that the method does not know are passed over.

    Raises:
        InvalidParamsError: A parameter is missing, unknown or breaks its rule; the first one in
            declaration order is named.
    """
    given: Mapping[str, object] = {}
    if isinstance(params, dict):
        given = params
    elif isinstance(params, list):
        names = method.names
        if len(params) > len(names):
            raise InvalidParamsError(
                f"{len(params)} positional parameters given, {method.name} takes at most"
                f" {len(names)}: {', '.join(names) or 'none'}",
                problem="too_many",
            )
        given = dict(zip(names, params, strict=False))
    elif params is not None:
        raise InvalidParamsError(
            f"Parameters are {shown(params)}: they must be an object or an array",
            problem="malformed",
        )
    if None not in given.values():
        try:
            return method.command(**given)
        except TypeError:
            pass  # a parameter is missing or unknown
    values = {name: given[name] for name in method.names if given.get(name) is not None}
    required = {each.name: None for each in method.command.parameters if each.required}
    nulls = sum(name in given for name in method.names) - len(values)
    if required.keys() <= values.keys() and len(given) > len(values) + nulls and not ignore_unknown:
        raise _unknown_parameter(method, given)
    # The command refuses what is missing: it names the first wrong parameter in declaration order.
    return method.command(**{**required, **values})


def _unknown_parameter(method: Method, given: Mapping[str, object]) -> InvalidParamsError:
    known = method.names
    unknown = next(name for name in given if name not in known)
    guess = nearest(unknown, known, least=0.6)
    hint = f"did you mean {guess}?" if guess else f"it takes {', '.join(known) or 'none'}"
    return InvalidParamsError(
        f"Unknown parameter {shown(unknown)} of {method.name}: {hint}",
        param=unknown[:128],
        problem="unknown",
    )
