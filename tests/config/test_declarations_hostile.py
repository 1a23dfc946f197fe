"""Whatever stands in the config file, it parses or is a `ConfigError` that can be logged."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plexus_registry.config.declarations import Declared, parse_toml
from plexus_registry.rules.errors import ConfigError

GOOD = '[[backend]]\nname = "a"\nhost = "h"\nport = 1\n'


def read(text: str) -> Declared | ConfigError:
    try:
        return parse_toml(text, path="p")
    except ConfigError as error:
        return error


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"x = {'1' * 5000}", id="5,000 digits"),
        pytest.param(f"{GOOD[:-2]}0x{'f' * 5000}", id="5,000 hexadecimal digits"),
        pytest.param(f"x = {'[' * 100_000}", id="deep array"),
        pytest.param(f"x = {'{a=' * 100_000}", id="deep table"),
        pytest.param(f"{GOOD}description{'.a' * 2000} = 1", id="deep dotted key"),
        pytest.param(f'{GOOD}description = "\ud800"', id="lone surrogate"),
        pytest.param("\x00", id="NUL"),
        pytest.param("\ufeff", id="byte order mark"),
    ],
)
def test_a_monstrous_document_is_a_config_error_and_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_toml(text, path="p")
    assert str(raised.value).isprintable()


pieces = st.lists(
    st.sampled_from(
        (
            *("[[backend]]", "[backend]", "[x.backend]", "backend", "name", "host", "port", "x"),
            *(" = ", ".", "\n", "\n", '"a"', '"h"', '"""', "'''", "1", "0", "true", "nan", "# "),
            *("[", "]", "{", "}", ",", '"', "\\", "\r", "1979-05-27", "inf", GOOD, GOOD),
        )
    ),
    max_size=12,
).map("".join)


@given(pieces | st.text() | st.text(st.characters(codec=None), max_size=5).map(GOOD.__add__))
@example(GOOD + "\x7f")
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    outcome = read(text)
    if isinstance(outcome, ConfigError):
        assert str(outcome).isprintable()
        assert outcome.line is None or 1 <= outcome.line <= text.count("\n") + 1
    else:
        assert all(name == each.name for name, each in outcome.backends.items())
        assert all(warning.isprintable() for warning in outcome.warnings)
