"""lab completion: what makes a shell complete commands, exercises and criteria."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that makes your shell complete `lab`.

    \b
    eval "$(lab completion bash)"       in ~/.bashrc; zsh alike, in ~/.zshrc
    lab completion fish | source        in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from grader.cli import group

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(group, {}, "lab", "_LAB_COMPLETE").source())
