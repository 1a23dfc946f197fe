"""The `trio-registry` command.

What a verb needs is imported when the verb runs: help and completion load neither Trio nor
SQLite.
"""

from __future__ import annotations

import click
from click_default_group import DefaultGroup

from plexus_registry._version import VERSION
from plexus_registry.cli.config_files import export, init
from plexus_registry.cli.serve import serve

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=DefaultGroup, default="serve", default_if_no_args=True, context_settings=CONTEXT)
@click.version_option(VERSION, prog_name="trio-registry", message="%(prog)s %(version)s")
def main() -> None:
    """Service discovery for Plexus hubs.

    Without a verb it serves: `trio-registry` is `trio-registry serve`, and takes its options
    (see `trio-registry serve --help`).
    """


for command in (serve, export, init):
    main.add_command(command)
