"""Opens a notebook in JupyterLab, on loopback, for as long as the student wants."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from grader.errors import LabFault
from grader.exercise import ROOT
from grader.home import Home, sweep
from grader.notebook.play import KEPT, environment
from grader.notebook.script import build, text
from grader.process import Child, spawn, wait_until
from grader.stack import live, rabbit_install

HOST, USUAL_PORT = "127.0.0.1", 8888
START_SECONDS, STOP_SECONDS = 60.0, 10.0
COPIES = ROOT / ".lab" / "notebooks"
# Or JupyterLab asks at its first start whether it may fetch news.
QUIET = KEPT / "settings" / "@jupyterlab" / "apputils-extension"


@contextlib.contextmanager
def lab_up() -> Iterator[live.Live]:
    """Have the lab up: the one that is, or one with RabbitMQ where it is installed, ended after."""
    sweep()
    before = live.current()
    try:
        yield before or live.up(rabbit_install.find_installation() is not None, flower=False)
    finally:
        sweep()  # what kernels left that were killed
        if before is None:
            live.down()


def own_copy(id: str, lang: str) -> Path:
    """Return the student's own copy; one of an older notebook is kept beside the new."""
    path = COPIES / lang / f"{id}.ipynb"
    if path.is_file() and _source(path) != build(id, lang)["metadata"]["lab"]["source"]:
        path.replace(path.with_suffix(".old.ipynb"))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(id, lang), encoding="utf-8")
    return path


def _source(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text("utf-8"))["metadata"]["lab"]["source"])
    return ""


@contextlib.contextmanager
def jupyter(path: Path, browser: bool, port: int = 0) -> Iterator[tuple[Child, str]]:
    """Run JupyterLab on loopback while the block lasts; yields its process and the URL to open.

    Raises:
        LabFault: it does not come up.
    """
    port, token = port or live.usual_or_free(USUAL_PORT), secrets.token_hex(16)
    _no_news()
    with Home("jupyter") as home:
        env = {**environment(home.folder), "JUPYTER_TOKEN": token}
        child = spawn(_command(path, browser, port), env=env, cwd=path.parent, ledger=home.ledger)
        try:
            address = f"http://{HOST}:{port}"
            wait_until(lambda: _answers(address, child), START_SECONDS, lambda: _fault(child))
            yield child, f"{address}/lab/tree/{path.name}?token={token}"
        finally:
            stop(child)


def _command(path: Path, browser: bool, port: int) -> list[str]:
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.ip={HOST}"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--ServerApp.root_dir={path.parent}", "--LabApp.news_url="]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += [] if browser else ["--no-browser"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [*command, path.name]


def _no_news() -> None:
    QUIET.mkdir(parents=True, exist_ok=True)
    file = QUIET / "notification.jupyterlab-settings"
    if not file.exists():
        file.write_text('{"fetchNews": "false", "checkForUpdates": false}\n')


def _answers(address: str, child: Child) -> bool:
    if not child.alive:
        raise _fault(child)
    try:
        with urllib.request.urlopen(f"{address}/api", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _fault(child: Child) -> LabFault:
    return LabFault("jupyter_not_up", log=child.output.finish(0.2)[-800:])


def stop(child: Child) -> None:
    """Ask the server to end with its kernels, then end what is left of it."""
    if child.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not child.alive, STOP_SECONDS, TimeoutError)
    child.end()
