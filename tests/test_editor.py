"""The dev container and the editor's files: they start the lab; the test panel finds the checks."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from grader.cli import COMMANDS
from grader.exercise import ROOT, folders
from grader.extras import EXTRAS

CONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
EDITOR = {
    name: json.loads((ROOT / ".vscode" / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("settings", "tasks", "extensions")
}
# What the published schema says of the keys that are used (devcontainers/spec, schemas/
# devContainer.base.schema.json): no other key may stand there without its row here.
KINDS = {
    "name": str,
    "image": str,
    "hostRequirements": dict,
    "onCreateCommand": str,
    "postCreateCommand": str,
    "remoteEnv": dict,
    "forwardPorts": list,
    "portsAttributes": dict,
    "otherPortsAttributes": dict,
    "customizations": dict,
}
ON_FORWARD = {"notify", "openBrowser", "openBrowserOnce", "openPreview", "silent", "ignore"}


def test_the_container_keeps_to_the_schema():
    """Each key is one that the schema knows, of the type that it says."""
    assert {key: type(value) for key, value in CONTAINER.items()} == KINDS
    assert set(CONTAINER["hostRequirements"]) == {"cpus", "memory"}
    assert re.fullmatch(r"\d+([tgmk]b)?", CONTAINER["hostRequirements"]["memory"])
    assert all(isinstance(value, str) for value in CONTAINER["remoteEnv"].values())
    ports = CONTAINER["forwardPorts"]
    assert all(isinstance(port, int) and 0 < port < 2**16 for port in ports)
    assert set(CONTAINER["portsAttributes"]) == {str(port) for port in ports}
    for row in (*CONTAINER["portsAttributes"].values(), CONTAINER["otherPortsAttributes"]):
        assert set(row) <= {"label", "onAutoForward"} and row["onAutoForward"] in ON_FORWARD


def test_the_image_is_pinned():
    """The image names its version and a Python that the lab runs on."""
    tag = re.fullmatch(r"[\w./]+:\d+-3\.(\d+)-\w+", CONTAINER["image"])

    assert tag and 11 <= int(tag[1]) <= 13


def test_the_container_sets_the_lab_up():
    """After it was made, the lab's own commands run: each of them is there."""
    calls = [call.split() for call in CONTAINER["postCreateCommand"].split(" && ")]

    assert [call[0] for call in calls] == ["./lab"] * len(calls)
    assert calls[0] == ["./lab", "--version"]
    assert all(call[1] in COMMANDS and call[2] in EXTRAS for call in calls if len(call) > 2)


def test_the_editor_and_the_container_recommend_the_same():
    """One list of extensions, each with its publisher."""
    mine = CONTAINER["customizations"]["vscode"]["extensions"]

    assert mine == EDITOR["extensions"]["recommendations"]
    assert all(re.fullmatch(r"[\w-]+\.[\w-]+", name) for name in mine)


def test_tasks_call_commands_that_are_there():
    """Each task runs the lab with a command that exists, and names what it is about."""
    assert EDITOR["tasks"]["version"] == "2.0.0"
    for task in EDITOR["tasks"]["tasks"]:
        assert task["label"].startswith("lab: ") and task["command"] == "${workspaceFolder}/lab"
        assert task["args"][:1] in ([], *([name] for name in COMMANDS))
        assert task["args"][1:] in ([], ["${fileDirnameBasename}"])


def test_the_test_panel_finds_every_check_without_a_warning():
    """Collecting as the editor does gives each exercise's checks, no error and no warning."""
    assert EDITOR["settings"]["python.testing.pytestEnabled"] is True
    arguments = EDITOR["settings"]["python.testing.pytestArgs"]
    command = [sys.executable, "-W", "error", "-m", "pytest", *arguments, "--collect-only", "-q"]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert run.returncode == 0, run.stdout + run.stderr
    assert not run.stderr and "warning" not in run.stdout.lower()
    for folder in folders(drafts=True):
        assert f"exercises/{folder.name}/" in run.stdout
    assert ".starters" not in run.stdout


@pytest.mark.parametrize("folder", [".devcontainer", ".vscode"])
def test_the_files_are_in_the_repository(folder):
    """Nothing of it is left out by .gitignore."""
    command = ["git", "check-ignore", "-q", f"{folder}/x.json"]

    assert subprocess.run(command, cwd=ROOT).returncode != 0
