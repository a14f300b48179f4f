"""lab install: extras that only some work needs, from their own lock file."""

from __future__ import annotations

import shutil
import subprocess
import sys

import click

EXTRAS = ("flower", "dev")


@click.command("install")
@click.argument("extra", type=click.Choice(EXTRAS))
def install_command(extra: str) -> None:
    """Install an extra into this environment, at the locked versions."""
    from grader.errors import LabFault
    from grader.exercise import ROOT

    lock = ROOT / f"requirements-{extra}.lock"
    tool = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
    where = ["--python", sys.executable] if tool[0] == "uv" else ["--quiet"]
    command = [*tool, "install", *where, "--require-hashes", "-r", str(lock)]
    if subprocess.run(command).returncode:
        raise LabFault("install_failed", extra=extra, command=" ".join(command))
    click.echo(f"Installed: {extra}")
