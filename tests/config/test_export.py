"""What is exported as a config file loads back to the same backends."""

from __future__ import annotations

import tomllib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.config.declarations import export_toml, parse_toml
from plexus_registry.rules.backend import Backend, Declaration
from plexus_registry.rules.errors import ConfigError
from tests import strategies as sts
from tests.fields import IN_FILE


def declared_by(backend: Backend) -> Declaration:
    return Declaration(**{field: getattr(backend, field) for field in IN_FILE})


several = st.lists(sts.backends(wide=True), max_size=4, unique_by=lambda backend: backend.name)


@given(several)
def test_round_trip(backends: list[Backend]) -> None:
    declared = parse_toml(export_toml(backends), path="p")
    assert declared.backends == {each.name: declared_by(each) for each in backends}
    assert declared.warnings == ()


@given(several, st.data())
def test_the_text_depends_on_the_backends_alone(
    backends: list[Backend], data: st.DataObject
) -> None:
    text = export_toml(backends)
    assert export_toml(data.draw(st.permutations(backends))) == text
    assert [*parse_toml(text, path="p").backends] == sorted(each.name for each in backends)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_survives(description: str, namespace: str) -> None:
    backend = example(description=description or None, namespace=namespace or None)
    declared = parse_toml(export_toml([backend]), path="p")
    assert declared.backends == {"a": declared_by(backend)}


@given(st.text(st.characters(codec=None)), st.sampled_from(IN_FILE))
def test_what_no_config_file_may_state_is_left_out_in_a_comment(text: str, field: str) -> None:
    other = example(name="zz")
    value = 0 if field == "port" else f"\x00 {text}" if field in IN_FILE[:4] else f"\ud800{text}"
    broken = msgspec.structs.replace(example(), **{field: value})
    exported = export_toml([broken, other])
    comment, rest = exported.split("\n", 1)
    assert comment.startswith("# Left out ")
    assert comment.endswith(f": not a valid {field}.")
    assert comment.isprintable()
    assert rest == export_toml([other])
    exported.encode()
    assert parse_toml(exported, path="p").backends == {"zz": declared_by(other)}


@pytest.mark.parametrize("text", ["\r\n", "\r", "\x7f", "\x85", "\u2028", '"""', "'''", "\\", "#"])
def test_awkward_text_survives(text: str) -> None:
    backend = example(description=text, namespace=f"{text}x{text}")
    assert parse_toml(export_toml([backend]), path="p").backends == {"a": declared_by(backend)}


def test_nothing_exports_to_nothing() -> None:
    assert export_toml([]) == ""


def test_a_name_that_is_left_out_cannot_end_its_comment() -> None:
    exported = export_toml([example(name='x\n[[backend]]\nname="evil"')])
    assert exported == ('# Left out "x\\n[[backend]]\\nname=\\"evil\\"": not a valid name.\n')
    assert tomllib.loads(exported) == {}


def test_an_entry_can_be_added_by_hand_to_what_was_exported() -> None:
    exported = export_toml([example(description="A hub"), example(name="b")])
    assert "\n\n[[backend]]\n" in exported
    added = parse_toml(f'{exported}\n[[backend]]\nname = "c"\nhost = "h"\nport = 1\n', path="p")
    assert [*added.backends] == ["a", "b", "c"]


def test_a_mistake_in_an_exported_file_is_found_by_its_line() -> None:
    exported = export_toml([example(), example(name="b")]).replace('"b"', '"a"')
    with pytest.raises(ConfigError) as raised:
        parse_toml(exported, path="p")
    assert raised.value.line is not None


def example(**fields: object) -> Backend:
    values: dict[str, object] = {"name": "a", "host": "h", "port": 1, "protocol": "ws"}
    times = {"registered_at": 1, "created_at": 1, "updated_at": 1}
    values |= {"id": "i", "source": "manual", "is_active": True, **times}
    return msgspec.structs.replace(msgspec.convert(values, Backend), **fields)


characters = st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Lo", "So", "Mn"])


@given(st.text(characters, min_size=1, max_size=20))
def test_what_does_not_show_is_escaped_and_survives(text: str) -> None:
    backend = example(description=f"{text} Überwachung \u200b\u202e\U000e0041\x9b\ufeff\u3164")
    exported = export_toml([backend])
    assert exported.replace("\n", "").isprintable()
    assert "Überwachung" in exported
    assert "\u3164" not in exported
    assert parse_toml(exported, path="p").backends == {"a": declared_by(backend)}
