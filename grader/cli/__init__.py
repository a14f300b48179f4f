"""The command `lab`: arguments only. Every command imports what it needs when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from grader import __version__

# name -> module, and the line `lab --help` shows; the module is imported only when called.
COMMANDS = {
    "grade": ("grade", "Grade your work, another folder, or a folder of exercises."),
    "watch": ("watch", "Grade whenever you save."),
    "hint": ("hint", "Ask for a hint, a step at a time."),
    "explain": ("explain", "Show what happened in the last run."),
    "progress": ("whereabouts", "Show where you stand."),
    "next": ("whereabouts", "Say what to do next."),
    "reset": ("reset", "Begin an exercise anew; your work is kept aside."),
    "list": ("catalogue", "List the exercises."),
    "class": ("classroom", "Grade a whole class into a grade book."),
    "history": ("classroom", "Show a grade book, or a student's attempts."),
    "report": ("classroom", "Write a grade book as web pages and for other programs."),
    "similar": ("classroom", "Show likely copies, side by side."),
    "regrade": ("classroom", "Grade again, also what has not changed."),
    "override": ("classroom", "Set a score by hand, with a reason."),
    "farm-worker": ("classroom", "Let this machine grade for `lab class --farm`."),
    "up": ("live", "Start brokers for work by hand."),
    "down": ("live", "Stop what `lab up` started."),
    "status": ("live", "Say what runs and where."),
    "env": ("live", "Print the exports for your shell."),
    "doctor": ("doctor", "Check this machine and say how to mend it."),
    "install": (
        "install",
        "Install an extra: flower, solar, class, farm, s3, watch, notebooks, dev.",
    ),
    "notebook": ("notebook", "Open a notebook in JupyterLab with the lab up."),
    "completion": ("completion", "Print what makes your shell complete `lab`."),
    "test": ("maintain", "Run the project's own tests."),
    "verify": ("maintain", "Prove starters, solutions, wrong and right answers."),
    "tables": ("maintain", "Write the generated tables of the documents anew."),
    "bench": ("maintain", "Measure against the floor."),
}


class Lazy(click.Group):
    """A group that knows its commands' names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"grader.cli.{COMMANDS[name][0]}")
        return getattr(module, f"{name.replace('-', '_')}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without importing any."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        return [CompletionItem(name, help=COMMANDS[name][1]) for name in names]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Suggest the nearest command for one that does not exist."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from grader.exercise import suggestion

            near = suggestion(args[0], COMMANDS)
            ctx.fail(
                f"No command {args[0]!r}. Did you mean: {near}? `lab --help` tells what each does."
            )
        return super().resolve_command(ctx, args)


@click.command(
    cls=Lazy,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="lab")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Learn Celery by doing: graded exercises against a live Redis and RabbitMQ.

    `lab` alone says where you are and what to type next.
    """
    if ctx.invoked_subcommand is None:
        from grader.cli.whereabouts import home

        home(language())


def main() -> None:
    """Run `lab`; every error that a user can meet ends in a sentence and an exit status."""
    import traceback

    from grader.errors import LabError
    from grader.words import Text

    try:
        sys.exit(group.main(prog_name="lab", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except LabError as error:
        click.echo(f"lab: {error.text.render(language())}", err=True)
        sys.exit(error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("lab: stopped; nothing is left running.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        # A fault of ours must not look like a score: 1 says that points are missing.
        traceback.print_exc()
        words = Text.of("grader_error", error=f"{type(error).__name__}: {error}")
        click.echo(f"lab: {words.render(language())}", err=True)
        sys.exit(3)


def language() -> str:
    """Return the language asked for with --lang, or LAB_LANG, English otherwise."""
    import os

    words = sys.argv
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--lang" and following in ("en", "zh"):
            return following
        if word in ("--lang=en", "--lang=zh"):
            return word[-2:]
    return "zh" if os.environ.get("LAB_LANG", "").startswith("zh") else "en"
