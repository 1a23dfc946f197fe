"""The verbs that need no registry: config files, the manual, completion.

Only `export` asks one, unless it reads a database.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from plexus_registry.cli.display import escaped, unknown
from plexus_registry.cli.session import (
    FILE,
    Session,
    VerbError,
    address_options,
    call,
    timeout_option,
)
from plexus_registry.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from importlib.resources.abc import Traversable

    from plexus_registry.rules.backend import Backend


@click.command(
    epilog="""\b
Examples:
  trio-registry export -o backends.toml
  trio-registry export --db-path registry.db
"""
)
@click.option(
    "--output",
    "-o",
    type=FILE,
    help="The file to write; it must not exist.  [default: standard output]",
)
@click.option(
    "--db-path",
    type=FILE,
    help="Read this database instead of asking a registry; a registry may run on it.",
)
@address_options
@timeout_option
def export(session: Session, *, db_path: Path | None, output: Path | None) -> None:
    """Write the backends as a config file.

    The file states each backend of the registry, inactive ones too. A registry that loads it has
    the same backends.
    """
    from plexus_registry.config.declarations import export_toml
    from plexus_registry.rules.events import Listed

    if db_path is None:
        backends: Iterable[Backend] = call(session, "list", Listed, active_only=False).backends
    else:
        backends = _read(db_path)
    text = export_toml(backends)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write_new(output, text)


def _read(db_path: Path) -> Iterable[Backend]:
    from plexus_registry.rules.errors import RegistryError
    from plexus_registry.rules.operations import merge
    from plexus_registry.storage.opening import read_records

    ctx = click.get_current_context()
    if ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        raise click.UsageError("Give --url or --db-path, not both.")
    try:
        return merge(read_records(db_path)).values()
    except RegistryError as error:
        raise VerbError(str(error)) from error


@click.command(epilog="Example: trio-registry init")
@click.argument("path", type=FILE, required=False)
def init(path: Path | None) -> None:
    """Write a commented starter config file.

    Without PATH it writes the default config file. It never overwrites a file.
    """
    path = path or Settings().config_path
    _write_new(path, _starter())
    click.echo(f"Wrote {path}: edit it; a running registry reads it by itself.")


STARTER_HEAD = """\
# Backends of the Plexus Registry. The file is watched: save it, and the change takes effect.
# An invalid file changes nothing; the registry's log says which line is wrong.
#
# Remove the leading "# " from an entry to use it.
#
# [[backend]]
"""


def _starter() -> str:
    """Write the starter config file: an entry with every field that it may state."""
    from plexus_registry.rules.backend import FIELDS

    fields = [field for field in FIELDS.values() if field.example is not None]
    entries = [f"# {field.name} = {field.example}" for field in fields]
    width = max(map(len, entries))
    lines = (
        f"{entry:<{width}}  # {field.note}\n" for entry, field in zip(entries, fields, strict=True)
    )
    return STARTER_HEAD + "".join(lines)


@click.group(epilog="Example: trio-registry config check backends.toml")
def config() -> None:
    """Check a config file."""


@config.command(epilog="Example: trio-registry config check backends.toml")
@click.argument("path", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
def check(path: Path | None) -> None:
    """Check a config file without a registry.

    Without FILE it checks the config file of `serve`. It prints the errors and warnings that a
    registry would log. The exit status is 1 if a registry would not accept the file.
    """
    from plexus_registry.config.file import read_content
    from plexus_registry.rules.errors import ConfigError

    path = path or Path(os.environ.get("REGISTRY_CONFIG") or Settings().config_path)
    content = read_content(path)
    if content.signature is None and not os.path.lexists(path):
        raise VerbError(f"{path}: does not exist; name another file, or write it")
    if isinstance(content.outcome, ConfigError):
        raise VerbError(str(content.outcome))
    for warning in content.outcome.warnings:
        click.echo(f"Warning: {escaped(warning)}", err=True)
    count = len(content.outcome.backends)
    click.echo(f"{escaped(str(path))}: valid, {count} backend{'s' if count != 1 else ''}")


def _write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet, completely or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _signals_held_back(), path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                path.unlink()
                raise
    except FileExistsError:
        if not path.is_file():
            raise VerbError(f"cannot write {path}: a file is in its way") from None
        raise VerbError(
            f"{path} exists and was left as it is: remove it, or name another file"
        ) from None
    except OSError as error:
        raise VerbError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Delay signals that end the process until the end of the block.

    Blocking them (`pthread_sigmask`) is not enough: another thread would receive them.
    """
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.getsignal(each) for each in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


def _pages() -> dict[str, Traversable]:
    """Find the pages by topic, in the order of the alphabet."""
    pages = files("plexus_registry").joinpath("manual").iterdir()
    by_name = {page.name: page for page in pages if page.name.endswith(".md")}
    return {name.removesuffix(".md"): by_name[name] for name in sorted(by_name)}


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
        # The first sentence below the heading.
        paragraph = " ".join(page.read_text(encoding="utf-8").split("\n\n")[1].split())
        click.echo(f"{name:{width}}  {paragraph.partition('. ')[0].removesuffix('.')}")
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
