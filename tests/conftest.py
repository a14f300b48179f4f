"""Fixtures that several tests share: a small copy of the project, and calls of its `lab`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from grader.exercise import ROOT

# Submissions of all kinds, some of which bring a conftest.py to be run by a careless grader.
collect_ignore = ["attacks", "right_answers", "wrong_answers"]

STEP = re.compile(r"^### \d+\. .*?(?=^### |\Z)", re.M | re.S)
NAMED = re.compile(
    r"`(?P<path>[\w./]*9_9/[\w./-]+\.\w+)`.*?```\w+\n(?P<text>.*?)^```$", re.M | re.S
)
PARTS = ("grader", "pyproject.toml", "conftest.py")


def contributing_files() -> list[tuple[str, str]]:
    """Return (path, text) for each file of the example in CONTRIBUTING.md."""
    steps = STEP.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(steps) == 10
    return [(m["path"], m["text"]) for step in steps for m in NAMED.finditer(step)]


class Copy:
    """A copy of the project that holds the small exercise 9_9 of CONTRIBUTING.md and no other.

    Its runs use a temporary folder of their own, so that what they leave behind can be seen.
    """

    def __init__(self, root: Path, temp: Path) -> None:
        self.root, self.temp = root, temp
        for part in PARTS:
            source = ROOT / part
            copier = shutil.copytree if source.is_dir() else shutil.copyfile
            copier(source, root / part)
        for path, text in contributing_files():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        self.starter = root / "exercises" / "9_9"
        self.solution = root / "solutions" / "9_9"

    @property
    def env(self) -> dict[str, str]:
        """The environment of its runs."""
        return {**os.environ, "PYTHONPATH": str(self.root), "TMPDIR": str(self.temp)}

    def lab(
        self, *arguments: object, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the copy's `lab` to its end."""
        return self._run(["-m", "grader"], arguments, cwd, env)

    def pytest(
        self, *arguments: object, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run pytest in the copy to its end."""
        return self._run(["-m", "pytest"], arguments, cwd, env)

    def _run(self, start: list[str], arguments, cwd, env) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *start, *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=cwd or self.root,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=180,
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the copy's `lab` and return at once."""
        command = [sys.executable, "-m", "grader", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=self.env, stdout=pipe, stderr=pipe, text=True
        )

    def left_behind(self) -> list[str]:
        """Return the files and processes that runs have left: told by the temporary folder."""
        files = [str(path) for path in self.temp.rglob("*")]
        return files + [" ".join(p.cmdline()) for p in self.processes()]

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that work in a folder of our runs."""
        found = []
        for process in psutil.process_iter():
            try:
                inside = process.cwd().startswith(str(self.temp))
            except (psutil.Error, OSError):
                continue
            if inside:
                found.append(process)
        return found


@pytest.fixture(scope="session")
def copy(tmp_path_factory) -> Copy:
    """A copy of the project with the example exercise, shared by all tests."""
    root = tmp_path_factory.mktemp("copy") / "lab"
    root.mkdir()
    return Copy(root, tmp_path_factory.mktemp("temp"))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a submission's greeting.py and returns its folder."""

    def make(text: str, name: str = "work"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "greeting.py").write_text(text, encoding="utf-8")
        return folder

    return make


@pytest.fixture
def student(monkeypatch, tmp_path):
    """A folder of the student's own for what is kept of their runs."""
    from grader import progress

    folder = tmp_path / "student"
    monkeypatch.setattr(progress, "FOLDER", folder)
    return folder


class Keep:
    """Keeps results of exercise 1_2 as the student's own, in which these criteria don't pass."""

    def __call__(self, *failing: str, **options):
        """Keep a result; return the sentence that says what went wrong with that, if anything."""
        from grader.exercise import find
        from grader.record import note

        exercise = find("1_2")
        return note(exercise, exercise.folder, self.result(*failing, **options))

    def result(self, *failing: str, verdict=None, only=(), hint="why?", note="", scenes=()):
        """Return a result on Redis."""
        from grader.exercise import find
        from grader.verdict import Finding, Result, Verdict
        from grader.words import NOTHING, Text

        said = Text({"en": "{en}", "zh": "为什么？"}, {"en": hint}) if hint else NOTHING
        findings = []
        for c in (c for c in find("1_2").criteria if not only or c.id in only):
            start = (c.id, Text.plain(c.id), c.points, c.bonus)
            bad = {"verdict": verdict or Verdict.FAILED, "hint": said} if c.id in failing else {}
            findings.append(
                Finding(*start, **{"verdict": Verdict.PASSED, "broker": "redis", **bad})
            )
        place = str(find("1_2").folder)
        more = {"note": Text.plain(note) if note else NOTHING, "scenes": tuple(scenes)}
        return Result("1_2", place, ("redis",), 7, tuple(findings), **more)


@pytest.fixture
def keep(student) -> Keep:
    """Keep a result as the student's own."""
    return Keep()
