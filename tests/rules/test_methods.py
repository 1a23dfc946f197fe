"""The table of methods and the commands behind them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules import methods
from plexus_registry.rules.backend import FIELDS, Register, Update
from plexus_registry.rules.errors import InvalidParamsError
from plexus_registry.rules.methods import BY_NAME, METHODS, nearest
from tests import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from plexus_registry.rules.parameters import Command

# The order of the parameters by position. Source: manual/methods.md, "Who gets a name".
PARAMETERS = {
    "register": fields.POSITIONS,
    "list": ("active_only",),
    "get": ("name",),
    "update": fields.UPDATED,
    "delete": ("name",),
    "deregister": ("name",),
    "ping": ("name",),
    "check": ("name",),
    "reload": (),
    "history": ("name", "namespace", "before", "limit"),
    "watch": ("since", "name", "namespace"),
}


def test_the_methods_are_those_of_the_design_with_their_parameters() -> None:
    table = {
        method.name: tuple(parameter.name for parameter in method.command.parameters)
        for method in METHODS
    }
    assert table == PARAMETERS
    assert {method.name: method for method in METHODS} == BY_NAME


def test_parameters_are_the_members_of_the_command() -> None:
    for method in METHODS:
        members = msgspec.structs.fields(method.command)
        assert tuple(member.name for member in members) == PARAMETERS[method.name]
        for field, parameter in zip(members, method.command.parameters, strict=True):
            assert field.required == parameter.required


def test_everything_has_its_documentation() -> None:
    for method in METHODS:
        texts = [method.doc, *(parameter.doc for parameter in method.command.parameters)]
        assert all(text.endswith(".") and text.isprintable() for text in texts)
        assert method.command.__doc__
    for field in FIELDS.values():
        assert field.values.rule
        assert not field.values.rule.endswith(".")


@pytest.mark.parametrize(
    ("make_it", "param"),
    [
        (lambda: Register(name="a/b", host="h", port=1), "name"),
        (lambda: Register(name="a", host="", port=1), "host"),
        (lambda: Register(name="a", host="h", port=0), "port"),
        (lambda: Register(name="a", host="h", port=1, source="env"), "source"),
        (lambda: Update(name="a", protocol="http"), "protocol"),
    ],
)
def test_a_command_is_checked_when_it_is_made(make_it: Callable[[], Command], param: str) -> None:
    with pytest.raises(InvalidParamsError) as raised:
        make_it()
    assert raised.value.data["param"] == param


def test_a_required_member_may_not_be_none() -> None:
    with pytest.raises(InvalidParamsError, match="Missing parameter name"):
        methods.Get(name=None)  # type: ignore[arg-type] # what an untyped caller may do


@pytest.mark.parametrize(
    ("word", "guess"),
    [("lst", "list"), ("Register", "register"), ("zzz", None), ("", None), ("l" * 10**6, None)],
    ids=["typo", "case", "nothing like it", "empty", "huge"],
)
def test_nearest(word: str, guess: str | None) -> None:
    assert nearest(word, BY_NAME, least=0.6) == guess


def test_nearest_to_nothing_is_nothing() -> None:
    assert nearest("list", ()) is None


@pytest.mark.parametrize(("word", "most"), [("registre", 1), ("x" * 10**6, 0), ("", 0)])
def test_at_most_one_word_is_compared_letter_by_letter(
    word: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    class Matcher(difflib.SequenceMatcher[str]):
        def ratio(self) -> float:
            compared.append(self)
            return super().ratio()

    monkeypatch.setattr(difflib, "SequenceMatcher", Matcher)
    known = [f"registry.{name}" for name in BY_NAME] + [*BY_NAME]
    nearest(word, known, least=0.6)
    assert len(compared) == most
    assert nearest(word, known) in known
    assert len(compared) == most


@given(st.sampled_from([*BY_NAME]), st.data())
def test_a_word_with_one_letter_wrong_is_found(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(word) - 1))
    mistyped = word[:at] + data.draw(st.sampled_from(("", "x", word[at] * 2))) + word[at + 1 :]
    assert nearest(mistyped, BY_NAME) == word
