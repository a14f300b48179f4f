"""lab install: extras that only some work needs, from their own lock file."""

from __future__ import annotations

import click

EXTRAS = ("flower", "solar", "class", "farm", "s3", "watch", "notebooks", "dev")


@click.command("install")
@click.argument("extra", type=click.Choice(EXTRAS))
def install_command(extra: str) -> None:
    """Install an extra into this environment, at the locked versions."""
    from grader.extras import install

    install(extra)
    click.echo(f"Installed: {extra}")
