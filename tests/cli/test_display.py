"""How backends look to people."""

from __future__ import annotations

import time

import click
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from plexus_registry.cli.display import ago, details, escaped, table
from plexus_registry.rules.backend import Backend, Health, Source, State
from tests.cli.running import run_on_terminal, succeed
from tests.e2e.harness import COMMAND, clean_environment

BACKEND = Backend(
    id="i",
    name="hub2",
    host="h",
    port=1,
    protocol="ws",
    source=Source.MANUAL,
    is_active=True,
    registered_at=0,
    created_at=0,
    updated_at=0,
)


@pytest.mark.parametrize(
    ("then", "shown"),
    [
        (None, "never"),
        (1_000_000, "just now"),
        (1_000_009, "just now"),
        (999_999, "1 s ago"),
        (999_941, "59 s ago"),
        (999_940, "1 min ago"),
        (996_401, "59 min ago"),
        (996_400, "1 h ago"),
        (913_601, "23 h ago"),
        (913_600, "1 d ago"),
        (740_800, "3 d ago"),
    ],
)
def test_times_are_relative(then: int | None, shown: str) -> None:
    assert ago(then, 1_000_000.5) == shown


@given(st.text())
def test_what_is_escaped_is_one_visible_line(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=200)), max_size=4))
def test_a_table_has_a_line_for_each_backend_whatever_is_in_it(
    texts: list[tuple[str, str]],
) -> None:
    backends = [
        msgspec.structs.replace(BACKEND, name=name, description=description)
        for name, description in texts
    ]
    lines = table(backends).split("\n")
    assert len(lines) == 1 + len(backends)
    assert all(line.isprintable() for line in lines)


def test_columns_stay_in_place_beside_colours_and_wide_characters() -> None:
    gone = msgspec.structs.replace(BACKEND, is_active=False, name="zwei")
    wide = msgspec.structs.replace(BACKEND, name="集線器", description="e\u0301")
    head, *rows = (click.unstyle(line) for line in table([BACKEND, gone, wide]).split("\n"))
    where = head.index("URL")
    assert [row.index("ws://") for row in rows] == [where, where, where - 3]
    assert rows[1].index("never") == head.index("SEEN")


def test_long_texts_are_cut_in_the_table_and_whole_in_the_details() -> None:
    backend = msgspec.structs.replace(BACKEND, description="x" * 4096, metadata='{"a":1}')
    assert table([backend]).endswith(" " + "x" * 57 + "...")
    shown = details(backend)
    assert "x" * 4096 in shown
    assert '{"a":1}' in shown


@given(st.text(alphabet="a集\u0301\n", max_size=90), st.integers(80, 200))
def test_a_table_fits_the_terminal_where_it_can(description: str, columns: int) -> None:
    backend = msgspec.structs.replace(BACKEND, description=description)
    for line in table([backend], columns=columns).split("\n"):
        # No character of these tests takes more columns than bytes of this encoding.
        wide = sum(len(each.encode("gb18030")) for each in line if each != "\u0301")
        assert wide <= columns


def test_a_narrow_terminal_still_shows_the_beginning_of_a_description() -> None:
    backend = msgspec.structs.replace(BACKEND, description="x" * 99)
    assert table([backend], columns=10).endswith(" " + "x" * 17 + "...")


async def test_the_width_of_the_terminal_is_asked_for(url: str) -> None:
    await succeed(url, "register", "broad", "h", "1", "--description", "x" * 99)
    for columns in (79, 100):
        shown = await run_on_terminal(url, "list", COLUMNS=str(columns))
        (line,) = (each for each in shown.splitlines() if each.startswith("broad "))
        assert len(line) == columns


def test_details_say_how_long_ago() -> None:
    backend = msgspec.structs.replace(
        BACKEND, registered_at=int(time.time()) - 7300, is_active=False
    )
    lines = dict(click.unstyle(line).split(maxsplit=1) for line in details(backend).split("\n"))
    assert lines["registered"] == "2 h ago"
    assert lines["state"] == "inactive"


def test_what_the_registry_learned_is_shown() -> None:
    now = int(time.time())
    health = Health(
        state=State.UP,
        since=now - 7300,
        last_probe=now - 5,
        latency_ms=1.25,
        failures=0,
        schema_hash="0f1e2d3c4b5a6978",
    )
    backend = msgspec.structs.replace(BACKEND, health=health, last_seen=now - 90)
    head, row = (click.unstyle(line) for line in table([backend]).split("\n"))
    for column, text in (
        ("STATE", "up "),
        ("SINCE", "2 h "),
        ("LATENCY", "1.2 ms"),
        ("SEEN", "5 s ago"),
    ):
        assert row[head.index(column) :].startswith(text), column
    lines = shown_details(backend)
    assert lines["latency"] == "1.2 ms"
    assert lines["schema"] == "hash  0f1e2d3c4b5a6978"
    down = msgspec.structs.replace(
        health, state=State.DOWN, failures=3, reason="connect: refused\x1b[2J"
    )
    lines = shown_details(msgspec.structs.replace(backend, health=down, is_active=False))
    assert (lines["state"], lines["failures"]) == ("down", "3")
    assert lines["reason"] == r"connect: refused\x1b[2J"
    assert lines["seen"] == "1 min ago"


@pytest.mark.parametrize(("latency_ms", "seen"), [(None, "never"), (1.5, "5 s ago")])
def test_who_never_answered_was_never_seen(latency_ms: float | None, seen: str) -> None:
    """A hub that wants a credential was probed, and did not say who it is."""
    health = Health(
        state=State.UNKNOWN,
        since=0,
        last_probe=int(time.time()) - 5,
        latency_ms=latency_ms,
        failures=0,
    )
    lines = shown_details(msgspec.structs.replace(BACKEND, health=health, last_seen=None))
    assert lines["seen"] == seen


def shown_details(backend: Backend) -> dict[str, str]:
    lines = (click.unstyle(line).split(maxsplit=1) for line in details(backend).split("\n"))
    return {key: text for key, text in lines}  # noqa: C416 - a list of two is no tuple


async def test_who_is_inactive_is_coloured_on_a_terminal_only(url: str) -> None:
    await succeed(url, "register", "colour", "h", "1")
    assert "\x1b" not in await run_on_terminal(url, "list", "--all")
    await succeed(url, "deregister", "colour")
    yellow = "\x1b[33mderegistered\x1b[0m"
    assert yellow in await run_on_terminal(url, "list", "--all")
    assert yellow in await run_on_terminal(url, "get", "colour")
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in await run_on_terminal(url, "list", "--all", **env)
    assert "\x1b" not in (await succeed(url, "list", "--all")).out
    assert "\x1b" not in await run_on_terminal(url, "list", "--all", "--json")


async def with_output_to(url: str, target: str, *arguments: str) -> tuple[int, str]:
    """Run a verb with its output to where a shell says, and give status and errors."""
    with trio.fail_after(30):
        done = await trio.run_process(
            ("sh", "-c", f'exec "$@" >{target}', "sh", *COMMAND, *arguments),
            capture_stderr=True,
            check=False,
            env=clean_environment(REGISTRY_URL=url),
        )
    return done.returncode, done.stderr.decode()


async def test_an_output_that_cannot_be_written_is_said_in_one_line(url: str) -> None:
    await succeed(url, "register", "written", "h", "1")
    said = "Error: cannot write the output: No space left on device\n"
    assert await with_output_to(url, "/dev/full", "list") == (1, said)
    assert await with_output_to(url, "/dev/full", "list", "--json") == (1, said)


async def test_a_closed_output_is_no_trouble(url: str) -> None:
    await succeed(url, "register", "unseen", "h", "1")
    assert await with_output_to(url, "&-", "list") == (0, "")
