"""`trio-registry help` and `completion`: the pages of the manual, and the scripts for shells."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import click

from plexus_registry.cli.display import unknown

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
    """Read the first sentence of a page, below its heading."""
    paragraph = page.read_text(encoding="utf-8").split("\n\n")[1]
    return " ".join(paragraph.split()).partition(". ")[0].removesuffix(".")


def _check_topic(_ctx: click.Context, _param: click.Parameter, topic: str | None) -> str | None:
    pages = _pages()
    if topic is None or topic in pages:
        return topic
    raise click.BadParameter(unknown("no such topic", topic, pages))


def _complete_topic(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [topic for topic in _pages() if topic.startswith(incomplete)]


@click.command("help", epilog="Example: trio-registry help health")
@click.argument("topic", required=False, callback=_check_topic, shell_complete=_complete_topic)
def show_help(topic: str | None) -> None:
    """Show a page of the manual.

    Without a topic it lists them. On a terminal, a page goes through a pager.
    """
    pages = _pages()
    if topic is not None:
        click.echo_via_pager(pages[topic].read_text(encoding="utf-8"))
        return
    width = max(map(len, pages))
    for name, page in pages.items():
        click.echo(f"{name:{width}}  {_summary(page)}")
    click.echo("\ntrio-registry help TOPIC shows a page.")


VARIABLE = "_TRIO_REGISTRY_COMPLETE"
"""The variable that tells click that a shell asks. Source: click, "Shell Completion"."""

COMPLETION_EPILOG = """\b
To have it in every new shell, add the line to the file:
  bash  ~/.bashrc    eval "$(trio-registry completion bash)"
  zsh   ~/.zshrc     eval "$(trio-registry completion zsh)"
  fish  ~/.config/fish/completions/trio-registry.fish
                     trio-registry completion fish | source
"""


@click.command(epilog=COMPLETION_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    With it, the tabulator key completes verbs and options.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice names those that click has
    click.echo(kind(ctx.find_root().command, {}, "trio-registry", VARIABLE).source(), nl=False)
