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
from plexus_registry.core.methods import nearest

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class VerbGroup(DefaultGroup):
    """Verbs, one of which is meant where none is named; a mistyped one is never taken for it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, and leave the rest of the arguments to it."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            guess = nearest(args[0], self.commands, least=0.6)
            known = f"did you mean {guess}?" if guess else f"there are {', '.join(self.commands)}"
            ctx.fail(f"No such verb {args[0]!r}: {known}")
        found: tuple[str | None, click.Command | None, list[str]]
        found = super().resolve_command(ctx, args)
        return found


@click.group(cls=VerbGroup, default="serve", default_if_no_args=True, context_settings=CONTEXT)
@click.version_option(VERSION, prog_name="trio-registry", message="%(prog)s %(version)s")
def main() -> None:
    """Service discovery for Plexus hubs.

    Without a verb it serves: `trio-registry` is `trio-registry serve`, and takes its options
    (see `trio-registry serve --help`).
    """


for command in (serve, export, init):
    main.add_command(command)
