"""REGISTRY_BACKENDS, and how a declaration meets what its layer stated so far."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.config.declarations import Declared, parse_environment
from plexus_registry.rules.backend import FIELDS, Backend, Declaration, Source
from plexus_registry.rules.errors import ConfigError
from plexus_registry.rules.reconciliation import LOCAL_HUB, reconcile
from tests import strategies as sts
from tests.fields import IN_FILE, OPTIONAL

NOW = 2000


def declared(name: str, host: str, port: int, protocol: str = "ws") -> Declaration:
    return Declaration(name=name, host=host, port=port, protocol=protocol)


GOOD = {
    "": [],
    " , ,, ": [],
    "dev=ws://192.168.1.100:4444,prod=wss://plexus.example.com:4444": [
        declared("dev", "192.168.1.100", 4444),
        declared("prod", "plexus.example.com", 4444, "wss"),
    ],
    " a = ws://h:1 ,\n b = wss://i:65535/ ,": [
        declared("a", "h", 1),
        declared("b", "i", 65535, "wss"),
    ],
    "a=ws://[::1]:1": [declared("a", "::1", 1)],
    "a=ws://[fe80::1%eth0]:1": [declared("a", "fe80::1%eth0", 1)],
    "a=ws://Hub.Example:1": [declared("a", "Hub.Example", 1)],
    "a=ws://h:0080": [declared("a", "h", 80)],
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_good_pairs(text: str, expected: list[Declaration]) -> None:
    result = parse_environment(text)
    assert [*result.backends.values()] == expected
    assert [*result.backends] == [each.name for each in expected]
    assert result.warnings == ()


SHAPE = "ws://HOST:PORT"
BAD = {
    "a": SHAPE,
    "a=": SHAPE,
    "=ws://h:1": 'name ""',
    "-a=ws://h:1": 'name "-a"',
    "a=h:1": "",
    "a=ws:h:1": SHAPE,
    "a=//h:1": 'protocol ""',
    "a=WS://h:1": 'protocol "WS"',
    "a=http://h:1": 'protocol "http"',
    "a=ws://h": SHAPE,
    "a=ws://h:": SHAPE,
    "a=ws://:1": SHAPE,
    "a=ws://h:0": "port 0",
    "a=ws://h:65536": "65536",
    "a=ws://h:+1": "h:+1",
    "a=ws://h:x": "h:x",
    "a=ws://h:1.0": "h:1.0",
    "a=ws://h:1/path": SHAPE,
    "a=ws://h:1?query": SHAPE,
    "a=ws://h:1/?query=x": SHAPE,
    "a=ws://h:1#fragment": SHAPE,
    "a=ws://user@h:1": SHAPE,
    "a=ws://user:password@h:1": SHAPE,
    "a=ws://h\ti:1": "",
    "a=ws://h\ni:1": "",
    "a=ws://h i:1": 'host "h i"',
    "a=ws://[::1:1": "::1:1",
    "a=ws://[h]:1": "[h]",
    "a=ws://[v1.x]:1": "v1.x",
    "a=ws://::1:1": "",
    "a=ws://1.2.3:1": 'host "1.2.3"',
    "a=ws://b\u00fccher:1": "host",
    "a=ws://\ud800:1": "",
    "a=ws://h:1,a=ws://i:2": 'name "a" is stated twice',
}


@pytest.mark.parametrize(("pair", "says"), BAD.items(), ids=map(ascii, BAD))
def test_bad_pair(pair: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_environment(f"ok=ws://ok:1,,{pair}")
    error = raised.value
    assert (error.origin, error.line) == ("REGISTRY_BACKENDS", None)
    number = 4 if "twice" in says else 3
    assert error.reason.startswith(f"backend {number}: ")
    assert says in error.reason
    assert str(error).isprintable()


pieces = st.lists(
    st.sampled_from(("a", "=", ",", "ws", "://", "[", "]", "::1", ":", "1", "/", "%"))
)


def read(text: str) -> Declared | ConfigError:
    try:
        return parse_environment(text)
    except ConfigError as error:
        return error


@given(st.text() | pieces.map("".join) | st.text(st.characters(codec=None)).map("a=ws://".__add__))
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    outcome = read(text)
    if isinstance(outcome, ConfigError):
        assert str(outcome).isprintable()
        return
    for name, each in outcome.backends.items():
        assert name == each.name
        for field in ("name", "host", "port", "protocol"):
            assert FIELDS[field].values.accepts(getattr(each, field))


@given(sts.declarations(), sts.sources())
def test_a_new_declaration_makes_a_new_backend(declaration: Declaration, source: Source) -> None:
    backend = reconcile(declaration, None, source=source, now=NOW, new_id=lambda: "id-new")
    assert msgspec.structs.asdict(backend) == {
        **dict.fromkeys(OPTIONAL),
        **{name: getattr(declaration, name) for name in IN_FILE},
        "id": "id-new",
        "source": source,
        "is_active": True,
        "registered_at": NOW,
        "last_seen": None,
        "created_at": NOW,
        "updated_at": NOW,
        "health": None,
    }


@given(sts.backends(name="a", source=Source.FILE), sts.declarations(name="a"))
def test_a_known_declaration_keeps_what_the_origin_does_not_say(
    former: Backend, declaration: Declaration
) -> None:
    backend = reconcile(declaration, former, source=Source.FILE, now=NOW, new_id=lambda: "id-new")
    expected = {**msgspec.structs.asdict(former), **msgspec.structs.asdict(declaration)}
    if expected != msgspec.structs.asdict(former):
        expected["updated_at"] = NOW
    here, there = (former.host, former.port, former.protocol), declaration
    if (here[0].lower(), *here[1:]) != (there.host.lower(), there.port, there.protocol):
        expected |= {"last_seen": None, "is_active": True}
    assert msgspec.structs.asdict(backend) == expected


@given(sts.backends(name="a", source=Source.ENV))
def test_a_declaration_that_says_nothing_new_changes_nothing(former: Backend) -> None:
    said = {field: getattr(former, field) for field in Declaration.__struct_fields__}
    again = reconcile(
        Declaration(**said), former, source=Source.ENV, now=NOW, new_id=lambda: "id-new"
    )
    assert again is former


def test_the_built_in_entry_keeps_the_rules() -> None:
    for field in Declaration.__struct_fields__:
        value = getattr(LOCAL_HUB, field)
        assert value is None or FIELDS[field].values.accepts(value)
    assert (LOCAL_HUB.name, LOCAL_HUB.host, LOCAL_HUB.port) == ("plexus", "127.0.0.1", 4444)
