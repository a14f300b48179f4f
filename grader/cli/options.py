"""Options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from grader.errors import LabError
from grader.exercise import PROVIDERS, find, folders

LANGUAGES = ("en", "zh")


def exercises_or_folders(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete an exercise, or a folder where none begins so."""
    ids = _exercises(ctx, param, incomplete)
    return [CompletionItem(id) for id in ids] or [CompletionItem(incomplete, type="dir")]


def _exercises(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [folder.name for folder in folders() if folder.name.startswith(incomplete)]


def _criteria(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete a criterion of the exercise that stands before it; say nothing where none does."""
    with contextlib.suppress(LabError, KeyError, TypeError):
        return [c.id for c in find(ctx.params["id"]).criteria if c.id.startswith(incomplete)]
    return []


EXERCISE = click.argument("id", metavar="ID", shell_complete=_exercises)
CRITERION = click.argument("criterion", required=False, shell_complete=_criteria)
language_option = click.option(
    "--lang", type=click.Choice(LANGUAGES), default=None, help="Language of what is said."
)
FORMATS = ("text", "json", "junit", "gradescope", "markdown")


def checks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option for an instructor's own checks."""
    return click.option(
        "--checks",
        type=click.Path(path_type=Path),
        default=None,
        help="A folder of your own checks, one for each exercise: DIR/1_2/private.toml.",
    )(function)


def grading(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of everything that grades."""
    for option in (
        click.option(
            "--broker",
            type=click.Choice(["redis", "rabbitmq", "all"]),
            default="all",
            help="The broker to run on; all that the exercise names by default.",
        ),
        click.option(
            "--stack",
            type=click.Choice(PROVIDERS),
            default=None,
            help="Where brokers come from; the first that works by default.",
        ),
        click.option(
            "--require",
            multiple=True,
            type=click.Choice(["rabbitmq"]),
            help="Fail instead of leaving out what this machine lacks.",
        ),
        click.option(
            "--strict",
            is_flag=True,
            help="Grade for marks: refuse where this machine can't hold strangers' work.",
        ),
        click.option(
            "--unsafe",
            is_flag=True,
            help="With --strict: grade all the same; the results say so.",
        ),
        click.option(
            "--seed", type=click.IntRange(0, 2**53), default=None, help="Repeat a run's inputs."
        ),
        click.option(
            "--lang",
            type=click.Choice(["en", "zh"]),
            default=None,
            help="Language of the score card (LAB_LANG sets it for good).",
        ),
    ):
        function = option(function)
    return function
