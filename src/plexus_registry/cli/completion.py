"""`trio-registry completion`: the script that makes a shell complete the command."""

from __future__ import annotations

import click

PROGRAM = "trio-registry"
VARIABLE = "_TRIO_REGISTRY_COMPLETE"
"""What click looks at to see that a shell asks. Source: click, "Shell Completion"."""

EPILOG = """\b
To have it in every new shell, add the line to the file:
  bash  ~/.bashrc    eval "$(trio-registry completion bash)"
  zsh   ~/.zshrc     eval "$(trio-registry completion zsh)"
  fish  ~/.config/fish/completions/trio-registry.fish
                     trio-registry completion fish | source
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    With it, the tabulator key completes verbs and options.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice names those that click has
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source(), nl=False)
