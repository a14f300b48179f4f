"""lab list: the exercises there are."""

from __future__ import annotations

import click


@click.command("list")
def list_command() -> None:
    """List the exercises with their level, time and brokers."""
    from grader.cli import language
    from grader.exercise import find, folders

    for exercise in map(find, (folder.name for folder in folders())):
        stars = "*" * exercise.stars
        brokers = ", ".join(exercise.brokers)
        title = exercise.title[language()]
        click.echo(f"{exercise.id:<10} {stars:<5} {exercise.minutes:>4} min  {title}  ({brokers})")
