"""How errors show what a caller gave, and the codes that they carry."""

from __future__ import annotations

import math
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules import errors
from plexus_registry.rules.errors import CallError, ConfigError, MethodError, ProtocolError, shown
from tests import strategies as sts

# Values that no JSON holds, but a Python caller or a TOML file may.
odd_values: st.SearchStrategy[object] = (
    st.text(st.characters(codec=None))
    | st.binary()
    | st.complex_numbers()
    | st.datetimes()
    | st.sets(st.integers())
    | st.tuples(st.text(), st.integers())
    | st.dictionaries(st.integers(), st.text())
    | st.builds(object)
)


def assert_harmless(text: str) -> None:
    assert text
    assert text.isprintable()  # no line break, no control character, no lone surrogate
    assert len(text) <= 80


@given(sts.json_values() | odd_values)
def test_any_value_is_shown_on_one_short_printable_line(value: object) -> None:
    assert_harmless(shown(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        ("a\nb", '"a\\nb"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        ("\u2028\x7f\u202e", '"\\u2028\\x7f\\u202e"'),
        ("\ud800", "'\\ud800'"),
        ("é🙂", '"é🙂"'),
        (None, "null"),
        (True, "true"),
        (4444.0, "4444.0"),
        ({"a": [1]}, '{"a":[1]}'),
        ("x" * 78, f'"{"x" * 78}"'),
        ("x" * 79, f'"{"x" * 76}...'),
        ({"x" * 200: 1}, f'{{"{"x" * 75}...'),
    ],
    ids=ascii,
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_an_integer_beyond_what_python_prints_is_shown() -> None:
    assert_harmless(shown(16**5000))


def test_a_value_that_is_nested_deeply_is_shown() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert_harmless(shown(nested))


@pytest.mark.parametrize("character", ["a", "\x01", "é", "\u2028", "\ud800"], ids=ascii)
def test_a_long_text_is_cut_before_it_is_escaped(character: str) -> None:
    value = character * 10**6
    tracemalloc.start()
    try:
        text = shown(value)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert text == shown(character * 100)
    assert most < 20_000


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_a_number_that_json_lacks_is_not_shown_as_null(value: float) -> None:
    assert shown(value) != "null"


# Source: JSON-RPC 2.0, section 5.1; manual/methods.md, "Errors".
CODES = {
    "parse_error": -32700,
    "invalid_request": -32600,
    "method_not_found": -32601,
    "invalid_params": -32602,
    "internal_error": -32603,
    "batch_too_large": -32010,
    "unauthorized": -32005,
    "limit_exceeded": -32006,
    "response_too_large": -32008,
    "websocket_needed": -32011,
    "not_found": -32001,
    "name_taken": -32002,
    "config_invalid": -32003,
    "storage_failed": -32004,
}


def test_codes_and_words() -> None:
    broken = {kind.word: kind.code for kind in ProtocolError.__subclasses__()}
    refused = {kind.word: kind.code for kind in MethodError.__subclasses__()}
    assert broken | refused == CODES


@pytest.mark.parametrize(
    "error",
    [
        errors.ParseError("m", reason="r"),
        errors.NotFound("a"),
        errors.NameTaken("m", holder=None),
        errors.ConfigInvalid(ConfigError("p", 3, "r")),
        errors.StorageFailed("disk full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_data_begins_with_the_word(error: CallError) -> None:
    assert next(iter(error.data.items())) == ("code", error.word)
    assert str(error) == error.message
    msgspec.json.encode(error.data)


def test_config_error_says_where() -> None:
    assert str(ConfigError("p", 3, "wrong")) == "p, line 3: wrong"
    assert str(ConfigError("p", None, "wrong")) == "p: wrong"
    invalid = errors.ConfigInvalid(ConfigError("p", 3, "wrong"))
    assert invalid.data == {"code": "config_invalid", "path": "p", "line": 3, "reason": "wrong"}
    assert "p, line 3: wrong" in invalid.message


def test_storage_failed_keeps_its_reason() -> None:
    assert errors.StorageFailed("disk full").reason == "disk full"


@pytest.mark.parametrize(("size", "ending"), [(128, ""), (129, "..."), (10**6, "...")])
def test_a_name_that_is_not_found_is_said_in_bounded_length(size: int, ending: str) -> None:
    error = errors.NotFound("n" * size)
    assert error.message == f"Backend not found: {'n' * 128}{ending}"
    assert error.data["name"] == error.message.removeprefix("Backend not found: ")
