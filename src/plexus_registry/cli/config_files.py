"""`trio-registry export`, `init` and `config check`: config files written and checked."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from plexus_registry.cli.session import (
    Session,
    VerbError,
    address_options,
    call,
    pass_session,
    timeout_option,
)
from plexus_registry.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plexus_registry.rules.backend import Backend

STARTER_HEAD = """\
# Backends of the Plexus Registry. The file is watched: save it, and the change takes effect.
# An invalid file changes nothing; the registry's log says which line is wrong.
#
# Remove the leading "# " from an entry to use it.
#
# [[backend]]
"""


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
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; it must not exist.  [default: standard output]",
)
@click.option(
    "--db-path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Read this database instead of asking a registry; a registry may run on it.",
)
@address_options
@timeout_option
@pass_session
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
    from plexus_registry.rules.merge import merge
    from plexus_registry.storage.opening import read_records

    ctx = click.get_current_context()
    if ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        raise click.UsageError("Give --url or --db-path, not both.")
    try:
        return merge(read_records(db_path)).values()
    except RegistryError as error:
        raise VerbError(str(error)) from error


@click.command(epilog="Example: trio-registry init")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), required=False)
def init(path: Path | None) -> None:
    """Write a commented starter config file.

    Without PATH it writes the default config file. It never overwrites a file.
    """
    path = path or Settings().config_path
    _write_new(path, _starter())
    click.echo(f"Wrote {path}: edit it; a running registry reads it by itself.")


def _starter() -> str:
    """Write the starter config file: an entry with every field that it may state."""
    from plexus_registry.rules.backend import FIELDS

    fields = [field for field in FIELDS.values() if field.example is not None]
    entries = [f"# {field.name} = {field.example}" for field in fields]
    width = max(map(len, entries))
    notes = (f"# {field.note}" for field in fields)
    lines = (f"{entry:<{width}}  {note}\n" for entry, note in zip(entries, notes, strict=True))
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
    from plexus_registry.cli.display import escaped
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
