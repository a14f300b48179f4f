"""Runs a notebook against the live lab, and writes the run as a page."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import LabFault
from grader.exercise import ROOT
from grader.home import Home
from grader.notebook.script import text

if TYPE_CHECKING:
    from nbformat import NotebookNode

# What Jupyter and its companions keep: in the lab's own folder, never in the home directory.
KEPT = ROOT / ".lab" / "jupyter"
CELL_SECONDS = 120
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of Jupyter and its kernels: all that they write lies in `KEPT`.

    Args:
        folder: for what ends with them.
    """
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "MPLCONFIGDIR": "matplotlib",
    }
    KEPT.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        **{name: str(KEPT / folder) for name, folder in places.items()},
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def execute(id: str, lang: str = "en") -> NotebookNode:
    """Run a notebook from its first cell to its last and return it with its outputs.

    Raises:
        LabFault: a cell failed; the sentence holds its error.
    """
    with Home("play") as home:
        os.environ.update(environment(home.folder))  # Jupyter's own modules look there
        return _execute(id, lang, home.folder)


def _execute(id: str, lang: str, folder: Path) -> NotebookNode:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook: Any = nbformat.reads(text(id, lang), as_version=4)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=where, ipython_hist_file=""
    )
    try:
        client.execute(stderr=subprocess.DEVNULL)  # it warns of the ports that it opens on loopback
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise LabFault("notebook_failed", id=id, error=COLOUR.sub("", str(error))) from error
    return notebook


def page(notebook: NotebookNode, title: str) -> str:
    """Return the notebook with its outputs as one HTML page that needs no network."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return str(html)


def render(id: str, lang: str, to: Path) -> None:
    """Run a notebook and write the page."""
    html = page(execute(id, lang), id)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(html, encoding="utf-8")
