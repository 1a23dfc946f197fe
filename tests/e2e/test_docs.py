"""The README and the manual describe what there is: their tables and pointers are compared."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from plexus_registry.__main__ import EXIT_INTERRUPTED
from plexus_registry.cli import VERBS, main, verbs
from plexus_registry.cli.offline import COMPLETION_EPILOG
from plexus_registry.cli.serve import serve
from plexus_registry.cli.session import (
    EXIT_NO,
    EXIT_NO_ANSWER,
    EXIT_USAGE,
    Session,
)
from plexus_registry.client import DEFAULT_URL
from plexus_registry.rules import errors
from plexus_registry.rules.backend import FIELDS, State
from plexus_registry.rules.methods import METHODS, Method
from plexus_registry.rules.states import RULES, Sign
from plexus_registry.settings import ACCESS, LIMITS, options
from tests.e2e.pages import MANUAL, PAGES, README, ROOT, anchors, cells, page, sections

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click


# Methods and errors.


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_and_parameter_is_documented(method: Method) -> None:
    text = sections(page("methods"))[f"registry.{method.name}"]
    assert method.doc in text
    rows = [
        f"| `{each.name}` | {'required ' if each.required else ''}| {each.doc} |"
        for each in method.command.parameters
    ]
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows
    assert f'"method":"registry.{method.name}"' in text, "it has an example"


def test_the_rules_of_the_fields_are_documented() -> None:
    rows = [
        (field.strip("`"), rule.replace("`", '"'), in_file)
        for field, rule, in_file in cells(sections(page("methods"))["Values"])[1:]
    ]
    assert rows == [
        (
            field.name,
            field.values.rule,
            "" if field.example is None else "required" if field.required else "optional",
        )
        for field in FIELDS.values()
    ]


def test_every_error_of_a_method_is_documented() -> None:
    text = sections(page("methods"))["Errors"]
    for kind in (
        errors.NotFound,
        errors.NameTaken,
        errors.ConfigInvalid,
        errors.StorageFailed,
        errors.Unauthorized,
        errors.SubscriptionLimitError,
        errors.AnswerLimitError,
        errors.BatchTooLargeError,
        errors.WebSocketNeeded,
    ):
        assert f"| {kind.code} | `{kind.word}` |" in text


def test_the_rules_of_health_are_those_of_the_code() -> None:
    rows = [row for row in cells(sections(page("health"))["States"]) if len(row) > 2]
    head, *signs = rows
    assert head == ["what happens", *(f"`{state}`" for state in State)]
    assert signs == [
        [sign, *(_changed(state, RULES[sign].get(state, state)) for state in State)]
        for sign in Sign
    ]


def _changed(before: State, after: State) -> str:
    return "" if after is before else f"**{after}**"


# Options and verbs.


def test_the_table_of_options_is_that_of_the_code() -> None:
    rows = [line for line in sections(page("options"))["All options"].splitlines() if "`--" in line]
    assert rows == [
        f"| {_flags(option)} | {f'`{option.envvar}`' if option.envvar else ''}"
        f" | {_default(option)} | {option.help} |".replace("  ", " ")
        for option in _options()
    ]


def test_the_options_about_access_and_load_stand_with_their_defaults() -> None:
    rows = [row for row in cells(sections(page("security"))["Limits"]) if row[0].startswith("`--")]
    shown = {flag: row[1] for row in rows for flag in re.findall("--[a-z-]+", row[0])}
    groups = {each.flag: each.group for each in options()}
    assert shown.keys() == {flag for flag, group in groups.items() if group in {ACCESS, LIMITS}}
    for option in _options():
        if option.opts[0] in shown and _default(option):
            assert shown[option.opts[0]] == _default(option)


def _options() -> list[click.Option]:
    return [each for each in serve.params if hasattr(each, "is_flag")]  # type: ignore[misc]  # all


def _flags(option: click.Option) -> str:
    return ", ".join(f"`{flag}`" for flag in option.opts)


def _default(option: click.Option) -> str:
    """The default as it stands in a table."""
    if isinstance(option.show_default, str):
        return option.show_default
    if not option.show_default:
        return ""
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def test_every_verb_is_documented() -> None:
    rows = cells(sections(page("clients"))["The command line"])
    documented = {row[0].strip("`").split()[0]: row for row in rows if len(row) == 2}
    for name, verb in VERBS.items():
        assert documented[name][1] == verb.summary
        with main.make_context("trio-registry", ["--version"], resilient_parsing=True) as ctx:
            command = main.get_command(ctx, name)
        assert command is not None
        arguments = (each for each in command.params if not hasattr(each, "is_flag"))
        taken = [str(each.name).upper() for each in arguments if each.required]
        usage = " ".join([name, *(["--"] if name == "announce" else []), *taken])
        assert documented[name][0] == f"`{usage}`"
    assert {row[0] for row in rows if row[0].isdigit()} == {
        *map(str, (0, EXIT_NO, EXIT_USAGE, EXIT_NO_ANSWER, EXIT_INTERRUPTED))
    }


def test_every_option_of_all_verbs_that_ask_is_documented() -> None:
    text = sections(page("clients"))["The command line"]
    rows = {row[0]: row for row in cells(text) if len(row) == 4}
    shared = [each for each in verbs.ping.params if "--help" not in each.opts]
    options = [each for each in shared if hasattr(each, "is_flag")]
    assert rows.keys() - {"option"} == {f"`{each.opts[0]}`" for each in options}
    for each in options:
        if each.envvar:
            assert rows[f"`{each.opts[0]}`"][1] == f"`{each.envvar}`"
    assert rows["`--url`"][2] == DEFAULT_URL
    assert float(rows["`--timeout`"][2]) == Session().timeout


def test_the_lines_for_completion_are_those_of_its_help() -> None:
    rows = [row for row in cells(sections(page("clients"))["Completion"]) if "`" in row[1]]
    assert [row[0] for row in rows] == ["bash", "zsh", "fish"]
    for _, line, file in rows:
        assert line.strip("`").replace("\\|", "|") in COMPLETION_EPILOG
        assert file.strip("`") in COMPLETION_EPILOG


# Pages and pointers.


def test_the_readme_is_short_and_names_every_page_of_the_manual() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 250
    for path in MANUAL.glob("*.md"):
        assert f"({path.relative_to(ROOT)})" in sections(text)["Manual"]


def test_the_scripts_that_the_readme_names_exist() -> None:
    for script in ("scripts/serve", "scripts/test", "scripts/bench"):
        assert script in README.read_text()
        assert shutil.which(str(ROOT / script)), f"{script} can be run"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", path.read_text()):
        file, _, heading = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not heading or heading in anchors(there.read_text()), target


OTHER_SOURCES = (
    "RFC ",
    "JSON-RPC 2.0",
    "XDG",
    "click,",
    "Linux,",
    "Prometheus,",
    "the first line of",
)
"""What else a `Source:` may name."""
_POINTER = re.compile(r'manual/(\w+)\.md, ((?:"[^"]+"(?: and |, )?)+)')


def test_every_source_names_a_section_of_the_manual_or_a_standard() -> None:
    for path, source in _sources():
        pointers = _POINTER.findall(source)
        assert pointers or source.startswith(OTHER_SOURCES), f"{path}: {source}"
        assert source.count("manual/") == len(pointers), f"{path}: {source}"
        for topic, headings in pointers:
            for heading in re.findall(r'"([^"]+)"', headings):
                assert heading in sections(page(topic)), f"{path}: {source}"


def _sources() -> Iterator[tuple[str, str]]:
    """What stands behind each `Source:`, up to the end of its paragraph, by file."""
    paths = [path for name in ("src", "tests", "scripts") for path in (ROOT / name).rglob("*.py")]
    for path in sorted({*paths} - {Path(__file__)}):
        text = re.sub(r"\n *(?:# ?)?", "\n", path.read_text())
        for found in re.findall(
            r'\bSource: (?!")(.+?)(?:"""|\n\n|\n(?=[\w@].*[:=(]))', text, flags=re.DOTALL
        ):
            yield str(path.relative_to(ROOT)), " ".join(found.split())


def test_every_invariant_names_a_test_that_exists() -> None:
    rows = cells(sections(page("architecture"))["Invariants"])[1:]
    assert rows
    for _, pointer in rows:
        file, _, name = pointer.strip("`").partition("::")
        tree = ast.parse((ROOT / file).read_text())
        defined = {each.name for each in tree.body if isinstance(each, _DEFINITIONS)}
        assert not name or name in defined, pointer


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def test_the_architecture_names_every_room() -> None:
    named = re.findall(r"^\| `([\w.]+)/?` \|", page("architecture"), flags=re.MULTILINE)
    package = ROOT / "src" / "plexus_registry"
    rooms = {each.name for each in package.iterdir() if each.is_dir() and each.name[0] != "_"}
    modules = {each.name for each in package.glob("[a-z]*.py")}
    assert set(named) == rooms | modules


def test_every_module_that_the_architecture_names_exists() -> None:
    package = ROOT / "src" / "plexus_registry"
    rooms = "|".join(each.name for each in package.iterdir() if each.is_dir())
    for module in re.findall(rf"(?<!tests/)\b(?:{rooms})/\w+", page("architecture")):
        assert (package / f"{module}.py").exists(), module
