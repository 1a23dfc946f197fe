"""`trio-registry export` and `trio-registry init`: config files written for people."""

from __future__ import annotations

from pathlib import Path

import click

from plexus_registry.core.errors import RegistryError
from plexus_registry.settings import default_config_path, default_db_path

STARTER = """\
# Backends of the Plexus Registry. The file is watched: save it, and the change takes effect.
# An invalid file changes nothing; the registry's log says which line is wrong.
#
# Remove the leading "# " from an entry to use it.
#
# [[backend]]
# name = "hub2"                  # how clients ask for it; each name once
# host = "127.0.0.1"             # a host name, IPv4 or IPv6 address
# port = 5001                    # 1 to 65535
# protocol = "ws"                # "ws" (the default) or "wss"
# description = "My second hub"  # optional, for people
# namespace = "hub2"             # optional, the Plexus namespace that it serves
"""


@click.command()
@click.option(
    "--db-path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=default_db_path,
    envvar="REGISTRY_DB_PATH",
    show_envvar=True,
    show_default="registry.db in the config folder",
    help="The SQLite database.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; it must not exist.  [default: standard output]",
)
def export(db_path: Path, output: Path | None) -> None:
    """Write the backends as a config file.

    The file states each backend that the database holds, as `get` and `list` show it; loaded
    by another registry, it gives the same backends. A running registry is not disturbed.
    """
    from plexus_registry.core.export import export_toml
    from plexus_registry.core.merge import merge
    from plexus_registry.store import read_records

    try:
        text = export_toml(merge(read_records(db_path)).values())
    except RegistryError as error:
        raise click.ClickException(str(error)) from error
    if output is None:
        click.echo(text, nl=False)
    else:
        _write_new(output, text)


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), required=False)
def init(path: Path | None) -> None:
    """Write a commented starter config file.

    PATH is the default config file unless it is given. A file that exists is never overwritten.
    """
    path = path or default_config_path()
    _write_new(path, STARTER)
    click.echo(f"Wrote {path}: edit it, a running registry takes it up by itself.")


def _write_new(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        if not path.is_file():
            raise click.ClickException(f"cannot write {path}: a file is in its way") from None
        raise click.ClickException(
            f"{path} exists and was left as it is: remove it, or name another file"
        ) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
