"""`trio-registry help`: the pages of the manual."""

from __future__ import annotations

from importlib.resources import files

import pytest

from tests.cli.running import run

PAGES = files("plexus_registry").joinpath("manual")
TOPICS = sorted(page.name.removesuffix(".md") for page in PAGES.iterdir() if ".md" in page.name)
NOWHERE = "ws://127.0.0.1:1"


async def test_without_a_topic_it_lists_every_page() -> None:
    done = await run(NOWHERE, "help")
    assert (done.status, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines() if line][:-1] == TOPICS


@pytest.mark.parametrize("topic", TOPICS)
async def test_a_page_is_shown_as_it_is_written(topic: str) -> None:
    done = await run(NOWHERE, "help", topic)
    assert (done.status, done.err) == (0, "")
    page = PAGES.joinpath(f"{topic}.md").read_text(encoding="utf-8")
    assert done.out.rstrip("\n") == page.rstrip("\n")


@pytest.mark.parametrize(
    ("wrong", "hint"), [("helth", "did you mean health?"), ("xyz", "there are architecture,")]
)
async def test_a_wrong_topic_is_refused_with_the_nearest(wrong: str, hint: str) -> None:
    done = await run(NOWHERE, "help", wrong)
    assert done.status == 2
    assert f"no such topic '{wrong}': {hint}" in done.err
