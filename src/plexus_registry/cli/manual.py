"""`trio-registry help`: the pages of the manual, which are shipped with the package."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SUFFIX = ".md"


def _pages() -> dict[str, Traversable]:
    """Find the pages by topic, in the order of the alphabet."""
    folder = files("plexus_registry").joinpath("manual")
    pages = {
        page.name.removesuffix(SUFFIX): page
        for page in folder.iterdir()
        if page.name.endswith(SUFFIX)
    }
    return dict(sorted(pages.items()))


def _summary(page: Traversable) -> str:
    """Read the first sentence of a page, which stands below its heading."""
    paragraph = page.read_text(encoding="utf-8").split("\n\n")[1]
    return " ".join(paragraph.split()).partition(". ")[0].removesuffix(".")


def _check_topic(_ctx: click.Context, _param: click.Parameter, topic: str | None) -> str | None:
    pages = _pages()
    if topic is None or topic in pages:
        return topic
    from plexus_registry.cli.display import escaped
    from plexus_registry.rules.methods import nearest

    guess = nearest(topic, pages, least=0.6)
    hint = f"did you mean {guess}?" if guess else f"there are {', '.join(pages)}"
    raise click.BadParameter(f"no such topic '{escaped(topic)}': {hint}")


def _complete_topic(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [topic for topic in _pages() if topic.startswith(incomplete)]


@click.command("help", epilog="Example: trio-registry help health")
@click.argument("topic", required=False, callback=_check_topic, shell_complete=_complete_topic)
def show_help(topic: str | None) -> None:
    """Show a page of the manual.

    Without a topic it lists them. A page goes through a pager on a terminal.
    """
    pages = _pages()
    if topic is not None:
        click.echo_via_pager(pages[topic].read_text(encoding="utf-8"))
        return
    width = max(map(len, pages))
    for name, page in pages.items():
        click.echo(f"{name:{width}}  {_summary(page)}")
    click.echo("\ntrio-registry help TOPIC shows a page.")
