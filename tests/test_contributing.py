"""CONTRIBUTING.md is followed to the letter, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grader.exercise import ROOT

STEP = re.compile(r"^### \d+\. .*?(?=^### |\Z)", re.M | re.S)
NAMED = re.compile(r"`(?P<path>[\w./]*9_9/[\w./-]+\.\w+)`.*?```\w+\n(?P<text>.*?)^```$", re.M | re.S)
PARTS = ("grader", "pyproject.toml", "conftest.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with the example exercise in it, and no other."""
    root = tmp_path_factory.mktemp("copy") / "lab"
    root.mkdir()
    for part in PARTS:
        source = ROOT / part
        copier = shutil.copytree if source.is_dir() else shutil.copyfile
        copier(source, root / part)
    for path, text in example():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def example() -> list[tuple[str, str]]:
    """Return (path, text) for each file that a step gives."""
    steps = STEP.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(steps) == 10
    return [(m["path"], m["text"]) for step in steps for m in NAMED.finditer(step)]


def lab(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the copy's own `lab`."""
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "grader", *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)


def test_the_example_names_every_file():
    """The ten steps give all nine files that an exercise needs."""
    assert [path for path, _ in example()] == [
        "exercises/9_9/README.md",
        "exercises/9_9/README.zh-CN.md",
        "exercises/9_9/exercise.toml",
        "exercises/9_9/greeting.py",
        "exercises/9_9/test_greeting.py",
        "solutions/9_9/greeting.py",
        "tests/wrong_answers/9_9/no_name/greeting.py",
        "tests/wrong_answers/9_9/no_name/case.toml",
        "tests/right_answers/9_9/explicit_name/greeting.py",
    ]


def test_the_steps_lead_to_a_green_verify(copy):
    """After `lab tables`, `lab verify 9_9` is green on the example as it stands in the document."""
    tables = lab(copy, "tables")
    assert tables.returncode == 0, tables.stderr
    assert "| greet answers with the name" in (copy / "exercises/9_9/README.md").read_text()

    verify = lab(copy, "verify", "9_9")

    assert verify.returncode == 0, verify.stdout + verify.stderr
    assert "wrong/9_9/no_name" in verify.stdout
