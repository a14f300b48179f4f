"""lab doctor: what this machine has, and the command that mends each gap."""

from __future__ import annotations

import sys

import click


@click.command("doctor")
@click.option("--lang", type=click.Choice(["en", "zh"]), default=None)
def doctor_command(lang: str | None) -> None:
    """Check this machine; exit status 3 if the lab can't work on it."""
    from grader.cli import language
    from grader.doctor import examine
    from grader.home import sweep

    swept, bad = sweep(), False
    for item in examine():
        bad = bad or item.level == "bad"
        click.echo(f"{item.level:<5} {item.what:<10} {item.said.render(lang or language())}")
        if item.mend:
            click.echo(f"{'':<16} $ {item.mend}")
    for folder in swept:
        click.echo(f"ok    swept      {folder}")
    sys.exit(3 if bad else 0)
