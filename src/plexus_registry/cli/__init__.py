"""The `trio-registry` command.

Theory of operation. The table below describes each verb until it is run or asked for its own help;
only then its module is imported. Trio, the client and the server are imported when a verb runs. So
help and completion load neither Trio nor SQLite, and a client verb loads no part of the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click

from plexus_registry import __version__

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verb(NamedTuple):
    """Where a verb is defined, and the first sentence of its help."""

    module: str
    attribute: str
    summary: str


VERBS: dict[str, Verb] = {
    "serve": Verb(
        "serve", "serve", "Serve the registry (what `trio-registry` does without a verb)."
    ),
    "list": Verb("verbs", "list_backends", "List the backends, newest first."),
    "get": Verb("verbs", "get", "Show one backend."),
    "register": Verb("verbs", "register", "Register a backend under a name."),
    "update": Verb("verbs", "update", "Change fields of a backend."),
    "delete": Verb("verbs", "delete", "Delete a backend until it is registered again."),
    "deregister": Verb("verbs", "deregister", "Make a backend inactive; its entry stays."),
    "ping": Verb("verbs", "ping", "Report that a backend is alive."),
    "check": Verb("verbs", "check", "Probe a backend now, and show each step."),
    "reload": Verb("verbs", "reload", "Make the registry read its config file now."),
    "watch": Verb("verbs", "watch", "Follow the changes, one line each."),
    "log": Verb("log", "log", "Show what changed, when, and who did it."),
    "announce": Verb("announce", "announce", "Run a command, registered for as long as it runs."),
    "export": Verb("offline", "export", "Write the backends as a config file."),
    "init": Verb("offline", "init", "Write a commented starter config file."),
    "config": Verb("offline", "config", "Check a config file."),
    "help": Verb("offline", "show_help", "Show a page of the manual."),
    "completion": Verb("offline", "completion", "Print the completion script of a shell."),
}


class VerbGroup(click.Group):
    """The verbs. Without one it is `serve`, also before an option; a mistyped verb is an error."""

    ignore_unknown_options = True  # those of `serve`

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs, in the order of the help."""
        return [*VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb."""
        if cmd_name in VERBS and cmd_name not in self.commands:
            verb = VERBS[cmd_name]
            module = import_module(f"{__name__}.{verb.module}")
            self.add_command(getattr(module, verb.attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before the verb; for completion there may be no verb yet."""
        if not args and not ctx.resilient_parsing:
            args = ["serve"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; the other arguments belong to it."""
        if args[0].startswith("-"):
            args = ["serve", *args]
        elif args[0] not in VERBS:
            if ctx.resilient_parsing:  # completion: nothing fits after a mistyped verb
                return None, None, []
            from plexus_registry.cli.display import unknown

            ctx.fail(unknown("No such verb", args[0], VERBS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of verbs without loading them; the default has a mark."""
        del ctx
        with formatter.section("Verbs"):
            rows = [(name, verb.summary) for name, verb in VERBS.items() if name != "serve"]
            formatter.write_dl([("serve*", VERBS["serve"].summary), *rows])

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem[str]]:
        """Complete a verb, or an option before one: the group's own, and those of `serve`."""
        from click.shell_completion import CompletionItem

        items: list[CompletionItem[str]] = [
            CompletionItem(name, help=verb.summary)
            for name, verb in VERBS.items()
            if name.startswith(incomplete)
        ]
        items += click.Command.shell_complete(self, ctx, incomplete)
        serve = self.get_command(ctx, "serve") if incomplete.startswith("-") else None
        if serve is not None:
            known = {item.value for item in items}
            more = serve.shell_complete(click.Context(serve, parent=ctx), incomplete)
            items += [item for item in more if item.value not in known]
        return items


EPILOG = """\b
Examples:
  trio-registry                                      serve on port 4445
  trio-registry list                                 list the backends
  trio-registry register hub2 127.0.0.1 5001
  trio-registry get hub2 --json
  trio-registry announce --name hub2 --port 5001 -- ./hub2

\b
Exit status of the verbs that ask a registry:
  0    done
  1    the registry said no: not found, name taken, refused
  2    the command line is wrong
  3    no connection, or no answer in time
  130  interrupted with Ctrl-C
"""


@click.group(cls=VerbGroup, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(__version__, prog_name="trio-registry", message="%(prog)s %(version)s")
def main() -> None:
    """Service discovery for Plexus hubs.

    Without a verb it serves: `trio-registry` means `trio-registry serve`, and takes the options
    of that (see `trio-registry serve --help`). The other verbs ask a running registry, by default
    the one on this machine.
    """
