"""Which values the fields of a backend may hold. Source: manual/methods.md, "Values"."""

from __future__ import annotations

from types import NoneType
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.rules.backend import (
    DECLARABLE,
    FIELDS,
    OPTIONAL,
    AllDetails,
    Backend,
    Declaration,
    Details,
    Layer,
    Record,
    Register,
    Source,
    Update,
)
from tests import fields
from tests import strategies as sts
from tests.fields import STATED

Verdicts = dict[str, tuple[object, ...]]

KIB = 1024
LABEL = "l" * 63
HOST_253 = ".".join([LABEL, LABEL, LABEL, "l" * 61])
NO_STRINGS: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    1,
    4444,
    4444.0,
    b"ws",
    ["ws"],
    ("ws",),
    {"ws": 1},
    {"ws"},
)

NAMES: Verdicts = {
    "accepted": ("a", "Z", "0", "hub-2", "hub_2", "hub.2", "a..b", "a-", "1" * 128, "con", "A.-_"),
    "refused": (
        *("", " ", "-a", ".a", "_a", "..", "a b", " a", "a ", "a/b", "a\\b", "a:b", "a=b", "a,b"),
        *(
            "a\n",
            "\na",
            "a\nb",
            "a\r",
            "a\t",
            "a\x00",
            "a\x7f",
            "n" * 129,
            "ü",
            "aü",
            "a\uff11",
            "\uff11",
        ),
        *("a\u2028", "a\ud800", "\uff41", "a\u0301", "🙂", *NO_STRINGS),
    ),
}
HOSTS: Verdicts = {
    "accepted": (
        *("h", "localhost", "LOCALHOST", "beta.example", "beta.example.", "a-b.c_d", "_srv.x"),
        *("1a.example", "1.2.3.4.example", "xn--bcher-kva.example", "x" * 63, HOST_253),
        *("127.0.0.1", "0.0.0.0", "255.255.255.255"),  # noqa: S104 - a value, not a listener
        *("::", "::1", "2001:db8::1", "2001:DB8::A", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"),
        *("fe80::1%eth0", "fe80::1%1", "fe80::1%en-0.1_x"),
    ),
    "refused": (
        *("", " ", ".", "..", "a..b", ".a", "a..", "-a", "a-", "a.-b", "a b", " a", "a ", "x" * 64),
        *(f"{HOST_253}.", f"{HOST_253}l", "l." * 127, "ws://h", "//h", "h/", "h/p", "h?q", "h#f"),
        *("h:1", "127.0.0.1:4444", "[::1]", "[::1]:1", "::1]", "u@h", "h,i", "h=i", "*", "h%zone"),
        *("1.2.3", "1.2.3.4.", "256.1.1.1", "1.2.3.4.5", "01.2.3.4", "1.2.3.x.4", "4444", "h.1"),
        *(
            "1.2.3.1e1.5",
            "h.\uff11",
            "\uff11.\uff12.\uff13.\uff14",
            ":",
            ":::",
            "1::2::3",
            "12345::",
            "g::1",
            "::1/64",
        ),
        *("::1.2.3.400", "::1%", "::1%a b", "::1%a/b", "::1%a%b", f"::1%{'z' * 33}", "%eth0"),
        *("h\n", "127.0.0.1\n", "::1\n", "::1%eth0\n", "\nh", "h\r", "h\t", "h\x00", "h\x7f"),
        *("bücher.example", "\uff48", "h。i", "h\u200b", "h\u2028", "h\ud800", *NO_STRINGS),
    ),
}
PORTS: Verdicts = {
    "accepted": (1, 80, 4444, 65535),
    "refused": (
        *(0, -1, 65536, 10**30, True, False, 1.0, 4444.0, 0.5, float("nan"), float("inf")),
        *("1", "4444", "", None, b"1", [1], {}, 1j),
    ),
}
PROTOCOLS: Verdicts = {
    "accepted": ("ws", "wss"),
    "refused": ("", "WS", "Wss", "ws ", "ws\n", "w", "http", "ws://", "wsss", *NO_STRINGS),
}
TEXTS: Verdicts = {
    "accepted": ("", "x", "\n\t", "\x00", "ü" * (2 * KIB), "x" * (4 * KIB), "🙂" * KIB, "\u2028"),
    "refused": (
        *("x" * (4 * KIB + 1), "ü" * (2 * KIB) + "x", "🙂" * KIB + "x", "🙂" * (KIB + 1)),
        *("\ud800", "x\udfff", "\ud83d", *NO_STRINGS),
    ),
}
# {"k":"..."} has eight characters around its text.
METADATA: Verdicts = {
    "accepted": (
        *({}, {"k": None}, {"k": [1, {"l": True}]}, {"": ""}, {"k": 2**64}, {"k": 1.5}),
        *({"k": "x" * (16 * KIB - 8)}, {"k": "ü" * (8 * KIB - 4)}, "{}", ' {"k": 1} '),
    ),
    "refused": (
        *({"k": "x" * (16 * KIB - 7)}, {"k": "ü" * (8 * KIB - 4) + "x"}, {"k" * (16 * KIB): 1}),
        *([], [{}], "", "{", "[]", "null", '"{}"', " " * 16 * KIB + "{}", "[" * 5000, "\ud800"),
        *(None, True, 1, 1.5, b"{}"),
    ),
}
SOURCES: Verdicts = {
    "accepted": ("manual", "auto", Source.MANUAL, Source.AUTO),
    "refused": ("file", "env", "", "Manual", "auto ", "runtime", Source.FILE, *NO_STRINGS),
}
VERDICTS: dict[str, Verdicts] = {
    "name": NAMES,
    "host": HOSTS,
    "port": PORTS,
    "protocol": PROTOCOLS,
    "text": TEXTS,
    "metadata": METADATA,
    "source": SOURCES,
}
TABLE = {row.name: VERDICTS[row.values] for row in STATED}
CASES = [
    pytest.param(field, value, verdict == "accepted", id=f"{field} {verdict} {ascii(value)[:40]}")
    for field, verdicts in TABLE.items()
    for verdict, values in verdicts.items()
    for value in values
]


@pytest.mark.parametrize(("field", "value", "is_accepted"), CASES)
def test_field_rule(field: str, value: object, is_accepted: bool) -> None:
    assert FIELDS[field].values.accepts(value) is is_accepted


RECORDS: dict[type[msgspec.Struct], tuple[str, ...]] = {
    Backend: tuple(FIELDS),
    Register: fields.POSITIONS,
    Update: fields.UPDATED,
    Declaration: fields.IN_FILE,
}


@pytest.mark.parametrize("record", RECORDS)
def test_the_annotations_of_a_record_repeat_the_table(record: type[msgspec.Struct]) -> None:
    stated = {field.name: field for field in msgspec.structs.fields(record)}
    expected = RECORDS[record]
    if record is Backend:  # it has more: its id, its times, its health
        stated = {name: stated[name] for name in stated if name in FIELDS}
    assert tuple(stated) == expected
    for name in FIELDS.keys() & stated.keys():
        may_be_left_out = not FIELDS[name].required or (record is Update and name != "name")
        has_default = stated[name].default is not msgspec.NODEFAULT
        assert has_default is (may_be_left_out and (record is not Backend or name in OPTIONAL))
        assert (NoneType in get_args(stated[name].type)) is (stated[name].default is None)


def test_the_keyword_arguments_of_the_client_repeat_the_table() -> None:
    clearable = {field.name for field in FIELDS.values() if field.is_clearable}
    assert Details.__optional_keys__ == clearable
    assert AllDetails.__optional_keys__ == set(OPTIONAL)


def test_the_fields_are_those_of_the_tests() -> None:
    assert tuple(FIELDS) == fields.NAMES
    assert DECLARABLE == fields.IN_FILE
    assert OPTIONAL == fields.OPTIONAL
    cleared = tuple(field.name for field in FIELDS.values() if field.is_clearable)
    assert cleared == fields.CLEARED


def test_host_limit_is_what_the_table_takes_it_for() -> None:
    assert len(HOST_253) == 253


@pytest.mark.parametrize("value", [object(), {(1,): 2}], ids=["object", "tuple as key"])
def test_metadata_that_json_cannot_hold_is_refused(value: object) -> None:
    assert not FIELDS["metadata"].values.accepts({"k": value})


def test_metadata_with_a_lone_surrogate_is_refused() -> None:
    assert not FIELDS["metadata"].values.accepts({"k": "\ud800"})


def test_metadata_that_holds_itself_is_refused() -> None:
    endless: dict[str, object] = {}
    endless["k"] = endless
    assert not FIELDS["metadata"].values.accepts(endless)


@given(st.sampled_from(sorted(FIELDS)), sts.json_values())
def test_any_json_value_gets_a_yes_or_no(field: str, value: object) -> None:
    assert FIELDS[field].values.accepts(value) in (True, False)


@given(sts.names(wide=True))
def test_names_are_safe_as_path_segments_and_file_names(name: str) -> None:
    assert FIELDS["name"].values.accepts(name)
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set('/\\:*?"<>| ')
    assert name not in {".", ".."}


@given(st.text())
def test_an_accepted_host_is_one_host_in_a_url(text: str) -> None:
    assert not FIELDS["host"].values.accepts(f"{text}/")
    assert not FIELDS["host"].values.accepts(f"{text}\n")
    assert not FIELDS["host"].values.accepts(f"[{text}]")


@pytest.mark.parametrize(
    ("protocol", "host", "port", "url"),
    [
        ("ws", "h", 1, "ws://h:1"),
        ("wss", "127.0.0.1", 4444, "wss://127.0.0.1:4444"),
        ("ws", "::1", 65535, "ws://[::1]:65535"),
    ],
)
def test_url(protocol: str, host: str, port: int, url: str) -> None:
    assert backend(protocol=protocol, host=host, port=port).url == url


def backend(**given: object) -> Backend:
    values: dict[str, object] = {"name": "a", "host": "h", "port": 1, "protocol": "ws"}
    times = {"registered_at": 1, "created_at": 1, "updated_at": 1}
    values |= {"id": "i", "source": "manual", "is_active": True, **times, **given}
    return msgspec.convert(values, Backend)


def test_addresses_are_equal_whatever_the_case_of_the_host() -> None:
    assert backend(host="Hub.Example").address == backend(host="hub.example").address
    assert backend(host="h").address != backend(host="i").address
    assert backend(port=1).address != backend(port=2).address
    assert backend(protocol="ws").address != backend(protocol="wss").address


def test_only_a_backend_that_was_seen_pings() -> None:
    assert not backend().pings
    assert backend(last_seen=0).pings


def test_a_record_without_a_backend_is_a_tombstone() -> None:
    assert Record(name="a", layer=Layer.RUNTIME, backend=None).is_tombstone
    assert not Record(name="a", layer=Layer.RUNTIME, backend=backend()).is_tombstone
