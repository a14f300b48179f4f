"""Packages that only some work needs: installed from their own lock file when it is done."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable

from filelock import FileLock

from grader.errors import LabFault
from grader.exercise import ROOT
from grader.words import Text

# Extra -> modules that are there once it is installed: all of them, for an extra may have grown.
BOOKS = ("alembic", "dulwich", "jinja2", "sqlalchemy")
JUPYTER = ("ipykernel", "jupyterlab", "matplotlib", "nbclient", "nbconvert")
FARM = (*BOOKS, "fsspec")
EXTRAS = {
    "flower": ("flower",),
    "solar": ("ephem",),
    "watch": ("watchfiles",),
    "class": BOOKS,
    "farm": FARM,
    "s3": (*FARM, "s3fs"),
    "notebooks": JUPYTER,
    "dev": (*FARM, *JUPYTER, "cronsim", "hypothesis", "mypy", "ruff", "watchfiles"),
}
SECONDS = 600


def present(extra: str) -> bool:
    """Whether the extra is installed in this environment."""
    importlib.invalidate_caches()
    return all(importlib.util.find_spec(module) for module in EXTRAS[extra])


def need(extra: str) -> None:
    """Raise LabFault, with the command to type, where the extra is not installed."""
    if not present(extra):
        raise LabFault("extra_missing", extra=extra)


def supply(extras: Iterable[str], tell: Callable[[str], None], lang: str = "en") -> None:
    """Install what is missing, saying so.

    Where that fails, say why and go on: only the criteria that need the extra can't be judged.
    """
    for extra in extras:
        # Two calls of the lab may share the environment.
        with FileLock(ROOT / ".venv.extras.lock"):
            if not present(extra):
                tell(Text.of("extra_installing", extra=extra).render(lang))
                try:
                    install(extra, quiet=True)
                except LabFault as fault:
                    tell(fault.text.render(lang))


def install(extra: str, quiet: bool = False) -> None:
    """Install an extra into this environment at the locked versions.

    Raises:
        LabFault: it can't be installed.
    """
    lock = ROOT / f"requirements-{extra}.lock"
    tool = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
    where = ["--python", sys.executable] if tool[0] == "uv" else ["--quiet"]
    command = [*tool, "install", *where, "--require-hashes", "-r", str(lock)]
    try:
        done = subprocess.run(command, capture_output=quiet, timeout=SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        done = False
    if not done:
        raise LabFault("install_failed", extra=extra, command=" ".join(command))
