"""The config file: what it declares, and where exactly it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from plexus_registry.config.declarations import Declared, parse_toml
from plexus_registry.rules.backend import Declaration
from plexus_registry.rules.errors import ConfigError

GOOD = '[[backend]]\nname = "a"\nhost = "h"\nport = 1\n'
GOOD_B = GOOD.replace('"a"', '"b"')
A = Declaration(name="a", host="h", port=1)


def read(text: str) -> Declared | ConfigError:
    try:
        return parse_toml(text, path="p")
    except ConfigError as error:
        return error


@dataclass(frozen=True)
class Good:
    """A document, what it declares, and the warnings as line and key."""

    title: str
    text: str
    backends: tuple[Declaration, ...]
    warnings: tuple[tuple[int, str], ...] = ()


GOOD_DOCUMENTS = [
    Good("nothing", "", ()),
    Good("only blanks and comments", "\n\n# [[backend]]\n  # name = 1\n", ()),
    Good("no entries", "backend = []\n", ()),
    Good("the least", GOOD, (A,)),
    Good(
        "everything",
        '[[backend]]\nname = "a"\nhost = "::1"\nport = 65535\nprotocol = "wss"\n'
        'description = "Überwachung"\nnamespace = "ns"\n',
        (
            Declaration(
                name="a",
                host="::1",
                port=65535,
                protocol="wss",
                namespace="ns",
                description="Überwachung",
            ),
        ),
    ),
    Good("empty texts are none", f'{GOOD}description = ""\nnamespace = ""\n', (A,)),
    Good("Windows line ends", GOOD.replace("\n", "\r\n"), (A,)),
    Good("no last line end", GOOD.rstrip("\n"), (A,)),
    Good("a port in hexadecimal", GOOD.replace("= 1", "= 0x1"), (A,)),
    Good("quoted keys", GOOD.replace("backend", '"backend"').replace("name", "'name'"), (A,)),
    Good("inline array", 'backend = [{name = "a", host = "h", port = 1}]', (A,)),
    Good(
        "in order",
        GOOD.replace('"a"', '"z"') + GOOD,
        (Declaration(name="z", host="h", port=1), A),
    ),
    Good(
        "headers inside multi-line strings are text",
        f'{GOOD}description = """\n[[backend]]\nname = "b"\n"""\nnamespace = \'\'\'\n[[backend]]'
        f"\n'''\nextra = 1\n",
        (
            Declaration(
                name="a",
                host="h",
                port=1,
                namespace="[[backend]]\n",
                description='[[backend]]\nname = "b"\n',
            ),
        ),
        ((12, "extra"),),
    ),
    Good(
        "quotes of the other kind inside a multi-line string",
        f'{GOOD}description = """\n\'\'\'\n[[backend]]\n"""\nx = 1\n',
        (Declaration(name="a", host="h", port=1, description="'''\n[[backend]]\n"),),
        ((9, "x"),),
    ),
    Good("an unknown key", f"{GOOD}color = 1\n", (A,), ((5, "color"),)),
    Good("a mistyped key", GOOD.replace("port", 'protcol = "wss"\nport'), (A,), ((4, "protcol"),)),
    Good("a dotted unknown key", f"{GOOD}tls.ca = 1\n", (A,), ((5, "tls"),)),
    Good("a table in an entry", f"{GOOD}\n[backend.tls]\nca = 1\n", (A,), ((6, "tls"),)),
    Good("an unknown key at the top", f"color = 1\n\n{GOOD}", (A,), ((1, "color"),)),
    Good("a mistyped table", f'{GOOD}\n[[backends]]\nname = "b"\n', (A,), ((6, "backends"),)),
    Good(
        "unknown keys of several entries",
        f"{GOOD}x = 1\n\n{GOOD_B}  x = 1\ny = 2\n",
        (A, Declaration(name="b", host="h", port=1)),
        ((5, "x"), (11, "x"), (12, "y")),
    ),
]


@pytest.mark.parametrize("case", GOOD_DOCUMENTS, ids=lambda case: case.title)
def test_good_document(case: Good) -> None:
    declared = parse_toml(case.text, path="p")
    assert tuple(declared.backends.items()) == tuple((each.name, each) for each in case.backends)
    assert len(declared.warnings) == len(case.warnings)
    for warning, (line, key) in zip(declared.warnings, case.warnings, strict=True):
        assert f'unknown key "{key}" is ignored' in warning
        assert warning.startswith(f"p, line {line}: ")


@dataclass(frozen=True)
class Bad:
    """A document, the line of its mistake, and what the reason must say."""

    title: str
    text: str
    line: int
    says: tuple[str, ...]


def with_field(field: str, value: str, *, name: str = "b") -> str:
    """A second entry with one field, first in it, that is wrong."""
    kept = "".join(f"{line}\n" for line in GOOD.splitlines() if not line.startswith(f"{field} "))
    header, rest = kept.replace('"a"', f'"{name}"').split("\n", 1)
    return f"{GOOD}\n{header}\n{field} = {value}\n{rest}"


PORT_0 = '[[backend]]\nname = "b"\nport = 0\nhost = "h"\n'

BAD_DOCUMENTS = [
    Bad("no TOML", f"{GOOD}what is this\n", 5, ("Expected '='",)),
    Bad("a string without an end", f'{GOOD}description = "x\n', 5, ()),
    Bad("a key stated twice", f'{GOOD}name = "b"\n', 5, ("overwrite",)),
    Bad("an end in the middle", f"{GOOD}description", 5, ("Expected '='",)),
    Bad("a header without an end", f"{GOOD}[[backend", 5, ("Expected ']]'",)),
    Bad("single brackets", GOOD.replace("[[backend]]", "[backend]"), 1, ("[[backend]]",)),
    Bad("a single value", '# x\nbackend = "a"\n', 2, ("[[backend]]",)),
    Bad("dotted", f"x = 1\nbackend.name = 1\n{GOOD.replace('backend', 'y')}", 2, ("[[backend]]",)),
    Bad("name missing", GOOD + '\n[[backend]]\nhost="h"\nport=1', 6, ("backend 2", "name")),
    Bad("host missing", '[[backend]]\nname = "a"\nport = 1', 1, ("backend 1", "host is missing")),
    Bad("port missing", '\n[[backend]]\nname = "a"\nhost = "h"', 2, ("port", "1 to 65535")),
    Bad("bad name", with_field("name", '"-b"'), 7, ('name "-b"', "letter or digit")),
    Bad("bad host", with_field("host", '"ws://h"'), 7, ('host "ws://h"', "scheme")),
    Bad("port as a string", with_field("port", '"1"'), 7, ('port "1"', "1 to 65535")),
    Bad("port as a float", with_field("port", "4444.0"), 7, ("port 4444.0",)),
    Bad("port as a boolean", with_field("port", "true"), 7, ("port true",)),
    Bad("port 0", with_field("port", "0"), 7, ("port 0",)),
    Bad("port 65536", with_field("port", "65_536"), 7, ("port 65536",)),
    Bad("port as a date", with_field("port", "2020-01-01"), 7, ("2020-01-01",)),
    Bad("port as no number", with_field("port", "nan"), 7, ("port nan",)),
    Bad("protocol", with_field("protocol", '"http"'), 7, ('protocol "http"', '"ws" or "wss"')),
    Bad("description", with_field("description", "1"), 7, ("description 1", "4096 bytes")),
    Bad("namespace", with_field("namespace", f'"{"x" * 4097}"'), 7, ("namespace", "4096 bytes")),
    Bad("dotted field", GOOD.replace("host", "host.x"), 3, ("host", '{"x":"h"}')),
    Bad("indented", f'{GOOD}  [[ backend ]]\n\t"name" = "b"\n\t"port"=0\nhost="h"', 7, ("port 0",)),
    Bad("a name stated twice", f"{GOOD}\n{GOOD}", 7, ('name "a" is stated twice', "line 1")),
    Bad(
        "after a multi-line string with a header in it",
        f'{GOOD}description = """\n[[backend]]\nport = 2\n"""\n\n{PORT_0}',
        12,
        ("backend 2", "port 0"),
    ),
    Bad(
        "after a quoted quote",
        f'{GOOD}description = \'"""\'\n\n{PORT_0}',
        9,
        ("backend 2", "port 0"),
    ),
    Bad(
        "after a comment with a quote",
        f'# x """\n{GOOD}description = """\n# """\n\n{PORT_0}',
        11,
        ("backend 2", "port 0"),
    ),
]


@pytest.mark.parametrize("case", BAD_DOCUMENTS, ids=lambda case: case.title)
def test_bad_document(case: Bad) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_toml(case.text, path="p")
    error = raised.value
    for words in case.says:
        assert words in error.reason
    assert (error.origin, error.line) == ("p", case.line)
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('\n"b\\u0061ckend" = 1', (None, 2)),
        ('\n[[backend]]\n"n\\u0061me" = 1\nhost = "h"\nport = 1', (None, 2, 3)),
    ],
)
def test_a_key_that_is_spelled_with_an_escape_has_no_wrong_line(
    text: str, lines: tuple[int | None, ...]
) -> None:
    error = read(text)
    assert isinstance(error, ConfigError)
    assert error.line in lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("backend = [1]", 1),
        (f'x = [\n[["backend"]]\n]\n{PORT_0}', 6),
        ('\nbackend = [{name = "a", host = "h", port = 0}]', 2),
        ('backend = [\n{name = "a", host = "h", port = 1},\n{name = "b"},\n]', 3),
    ],
)
def test_a_mistake_in_or_after_an_inline_array_has_the_right_line_or_none(
    text: str, line: int
) -> None:
    error = read(text)
    assert isinstance(error, ConfigError)
    assert error.line in (None, line)
    assert error.reason.startswith(f"backend {text.count('{') or 1}: ")


SUGGESTIONS = {
    "prot that is a protocol": (f'{GOOD}prot = "wss"\n', "; did you mean protocol?"),
    "a key that is like none": (f"{GOOD}colour = 1\n", "is ignored"),
    "another case": (f'{GOOD}Namespace = "n"\n', "; did you mean namespace?"),
    "mistyped table beside a good one": (
        f"{GOOD}[[backends]]\n",
        "; did you mean [[backend]]?",
    ),
}


@pytest.mark.parametrize(("text", "end"), SUGGESTIONS.values(), ids=SUGGESTIONS)
def test_an_unknown_key_is_a_warning_with_the_key_that_may_be_meant(text: str, end: str) -> None:
    (warning,) = parse_toml(text, path="p").warnings
    assert warning.endswith(end)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD.replace("port", "prot"), 1, 'port is missing (is it what you mean by "prot"?)'),
        (GOOD.replace("backend", "backends"), 1, "did you mean [[backend]]?"),
        (f"\n{GOOD}".replace("[[backend]]", "[Backend]"), 2, "did you mean [[backend]]?"),
    ],
)
def test_an_error_names_the_key_that_may_be_meant(text: str, line: int, says: str) -> None:
    error = read(text)
    assert isinstance(error, ConfigError)
    assert error.line == line
    assert says in error.reason


def test_many_unknown_keys_are_counted_and_the_first_are_named() -> None:
    keys = "".join(f"k{number} = 1\n" for number in range(5000))
    warnings = parse_toml(f"{keys}{GOOD}", path="p").warnings
    assert len(warnings) == 21
    assert warnings[19].startswith('p, line 20: unknown key "k19"')
    assert warnings[20] == "p: 4980 more unknown keys are ignored"
