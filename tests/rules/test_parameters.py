"""From the parameters of a call to a command that is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules import methods
from plexus_registry.rules.backend import Register, Update
from plexus_registry.rules.errors import InvalidParamsError
from plexus_registry.rules.methods import BY_NAME, METHODS, Method, command_from
from tests import strategies as sts
from tests.fields import POSITIONS

if TYPE_CHECKING:
    from plexus_registry.rules.parameters import Command


def make(method: str, params: object, *, ignore_unknown: bool = False) -> Command:
    return command_from(BY_NAME[method], params, ignore_unknown=ignore_unknown)


def names_of(method: str) -> list[str]:
    return [parameter.name for parameter in BY_NAME[method].command.parameters]


def refusal(method: str, params: object) -> InvalidParamsError:
    with pytest.raises(InvalidParamsError) as raised:
        make(method, params)
    assert (raised.value.code, raised.value.data["code"]) == (-32602, "invalid_params")
    return raised.value


GIVEN = {
    "get": ({"name": "a"}, ["a"], methods.Get(name="a")),
    "delete": ({"name": "a"}, ["a"], methods.Delete(name="a")),
    "deregister": ({"name": "a"}, ["a"], methods.Deregister(name="a")),
    "ping": ({"name": "a"}, ["a"], methods.Ping(name="a")),
    "list": ({"active_only": False}, [False], methods.List(active_only=False)),
    "reload": ({}, [], methods.Reload()),
    "update": (
        {"name": "a", "port": 2, "namespace": ""},
        ["a", None, 2, None, None, ""],
        Update(name="a", port=2, namespace=""),
    ),
    "register": (
        {"name": "a", "host": "h", "port": 1, "metadata": {"k": [1]}, "replace": True},
        ["a", "h", 1, None, None, None, None, {"k": [1]}, None, True],
        Register(name="a", host="h", port=1, metadata={"k": [1]}, replace=True),
    ),
}


@pytest.mark.parametrize("method", GIVEN)
def test_by_name_and_by_position(method: str) -> None:
    by_name, by_position, command = GIVEN[method]
    assert make(method, by_name) == command
    assert make(method, by_position) == command


@given(sts.register_commands(wide=True), st.integers(0, 10))
def test_by_name_and_by_position_are_the_same(command: Register, extra: int) -> None:
    by_name = msgspec.structs.asdict(command)
    assert make("register", by_name) == command
    assert make("register", [*by_name.values()]) == command
    shorter = dict(list(by_name.items())[: max(3, extra)])
    assert make("register", shorter) == make("register", [*shorter.values()])


@given(sts.update_commands(), st.permutations(names_of("update")))
def test_null_counts_as_not_given(change: Update, order: list[str]) -> None:
    values = msgspec.structs.asdict(change)
    nulls = {name: values[name] for name in order}
    assert make("update", nulls) == change
    assert make("update", {key: value for key, value in nulls.items() if value is not None}) == (
        change
    )


def test_null_gives_the_default() -> None:
    every = dict.fromkeys(names_of("register"))
    command = make("register", {**every, "name": "a", "host": "h", "port": 1})
    assert command == Register(name="a", host="h", port=1)
    assert isinstance(command, Register)
    assert (command.protocol, command.source, command.replace) == ("ws", "manual", False)
    assert make("list", {"active_only": None}) == methods.List(active_only=True)
    assert make("list", None) == make("list", {}) == make("list", []) == methods.List()


@pytest.mark.parametrize("params", [None, {}, [], {"name": None}, [None]], ids=str)
@pytest.mark.parametrize("method", ["get", "update", "delete", "deregister", "ping", "register"])
def test_a_name_that_is_missing(method: str, params: object) -> None:
    error = refusal(method, params)
    assert error.message.startswith("Missing parameter name: it must be a")
    assert error.data == {"code": "invalid_params", "param": "name", "problem": "missing"}


@pytest.mark.parametrize(("missing", "rule"), [("host", "IPv4"), ("port", "1 to 65535")])
def test_whatever_is_missing_is_named_with_its_rule(missing: str, rule: str) -> None:
    params = {"name": "a", "host": "h", "port": 1}
    del params[missing]
    error = refusal("register", params)
    assert error.data["param"] == missing
    assert rule in error.message


MALFORMED: list[tuple[str, str, object, str]] = [
    ("register", "name", "a/b", '"a/b": it must be a letter or digit'),
    ("register", "name", 5, "5: it must be"),
    ("register", "host", "ws://h", '"ws://h": it must be a host name'),
    ("register", "port", "4444", '"4444": it must be an integer from 1 to 65535'),
    ("register", "port", 0, "0: it must be"),
    ("register", "port", True, "true: it must be"),
    ("register", "port", 4444.0, "4444.0: it must be"),
    ("register", "protocol", "http", '"http": it must be "ws" or "wss"'),
    ("register", "description", ["x"], '["x"]: it must be a string'),
    ("register", "namespace", "\n" * 5000, "it must be a string of at most 4096 bytes"),
    ("register", "version", 1.5, "1.5: it must be a string"),
    ("register", "metadata", "[]", '"[]": it must be a JSON object'),
    ("register", "metadata", {"k": "x" * 20_000}, "at most 16384 bytes"),
    ("register", "source", "file", '"file": it must be "manual" or "auto"'),
    ("register", "replace", 1, "1: it must be true or false"),
    ("update", "name", 5, "5: it must be a string"),
    ("update", "host", "", '"": it must be a host name'),
    ("update", "port", 65536, "65536: it must be"),
    ("update", "protocol", "", '"": it must be "ws" or "wss"'),
    ("update", "description", False, "false: it must be a string"),
    ("list", "active_only", "true", '"true": it must be true or false'),
    ("list", "active_only", 0, "0: it must be true or false"),
    ("get", "name", {"a": 1}, '{"a":1}: it must be a string'),
]


@pytest.mark.parametrize(("method", "param", "value", "says"), MALFORMED)
def test_a_malformed_value_is_named_with_field_value_and_rule(
    method: str, param: str, value: object, says: str
) -> None:
    required: dict[str, dict[str, object]] = {
        "register": {"name": "a", "host": "h", "port": 1},
        "update": {"name": "a"},
    }
    error = refusal(method, {**required.get(method, {}), param: value})
    assert error.message.startswith(f"Parameter {param} is ")
    assert says in error.message
    assert error.message.isprintable()
    assert len(error.message) < 300
    assert error.data == {"code": "invalid_params", "param": param, "problem": "malformed"}


def test_the_first_in_order_is_named() -> None:
    params = {"port": 0, "protocol": 1, "host": "", "name": "a"}
    assert refusal("register", params).data["param"] == "host"


def test_a_malformed_value_is_named_before_one_that_is_missing_after_it() -> None:
    assert refusal("register", {"name": "a/b", "host": "h"}).data["param"] == "name"


@pytest.mark.parametrize(
    ("method", "params", "says"),
    [
        ("list", {"activeOnly": True}, "did you mean active_only?"),
        ("get", {"name": "a", "nmae": "a"}, "did you mean name?"),
        (
            "register",
            {"name": "a", "host": "h", "port": 1, "descripton": None},
            "did you mean desc",
        ),
        ("get", {"name": "a", "zzzz": 1}, "it takes name"),
        ("reload", {"force": True}, "it takes none"),
        ("get", {"name": "a", "x" * 500: 1, "y": 1}, "it takes name"),
        ("get", {"name": "a", "\n": 1}, 'parameter "\\n" of get'),
    ],
)
def test_an_unknown_parameter(method: str, params: dict[str, object], says: str) -> None:
    error = refusal(method, params)
    assert error.message.startswith("Unknown parameter ")
    assert says in error.message
    assert error.message.isprintable()
    assert error.data["problem"] == "unknown"
    unknown = next(key for key in params if key not in names_of(method))
    assert error.data["param"] == unknown[:128]
    known = {key: value for key, value in params.items() if key in names_of(method)}
    assert make(method, params, ignore_unknown=True) == make(method, known)


@pytest.mark.parametrize(
    ("method", "params", "says"),
    [
        ("get", ["a", "b"], "2 positional parameters given, get takes at most 1: name"),
        ("reload", [None], "1 positional parameters given, reload takes at most 0: none"),
        ("register", [0] * (len(POSITIONS) + 1), f"at most {len(POSITIONS)}: name, host"),
    ],
)
def test_too_many_positional(method: str, params: list[object], says: str) -> None:
    error = refusal(method, params)
    assert says in error.message
    assert error.data["problem"] == "too_many"


@pytest.mark.parametrize("params", ["a", 1, True, 1.5, "x" * 500], ids=ascii)
@pytest.mark.parametrize("method", BY_NAME)
def test_params_that_are_neither_object_nor_array(method: str, params: object) -> None:
    error = refusal(method, params)
    assert "must be an object or an array" in error.message
    assert error.message.isprintable()


@given(st.sampled_from(METHODS), sts.json_values(), st.booleans())
def test_any_params_make_a_command_or_are_refused(
    method: Method, params: object, ignore_unknown: bool
) -> None:
    try:
        command = command_from(method, params, ignore_unknown=ignore_unknown)
    except InvalidParamsError:
        return
    assert type(command) is method.command
