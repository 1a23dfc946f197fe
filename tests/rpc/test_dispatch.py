"""Every method has its verb, and every verb answers with an event."""

from __future__ import annotations

import inspect
import typing

import pytest

from plexus_registry.registry import Registry
from plexus_registry.rules import events
from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.events import EVENTS
from plexus_registry.rules.methods import METHODS, Get, History, List, Method

CARRIED_OUT = [
    method
    for method in METHODS
    if not method.streaming and method.command not in (Get, History, List)
]


@pytest.mark.parametrize("method", CARRIED_OUT, ids=lambda method: method.name)
def test_a_method_has_a_verb_that_takes_its_parameters_and_answers_with_an_event(
    method: Method,
) -> None:
    verb = getattr(Registry, method.name)
    taken = [*inspect.signature(verb).parameters][1:]
    assert taken.pop() == "by"
    if method.command in (Register, Update):
        assert len(taken) == 1
    else:
        assert taken == [parameter.name for parameter in method.command.parameters]
    names = {**vars(events), "Register": Register, "Update": Update}
    assert typing.get_type_hints(verb, localns=names)["return"] in EVENTS
