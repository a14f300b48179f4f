"""`lab completion`: commands, exercises and criteria are completed, fast and in every shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from grader.cli import COMMANDS, group
from grader.cli.completion import completion_command
from grader.exercise import ROOT, find, folders

IDS = [folder.name for folder in folders()]


def completed(*words: str) -> list[str]:
    """Return what bash would be given for the words typed so far."""
    env = {**os.environ, "_LAB_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["lab", *words])}
    env["COMP_CWORD"] = str(len(words))
    command = [sys.executable, "-m", "grader"]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert not run.stderr
    return [line.partition(",")[2] for line in run.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["h"], [name for name in COMMANDS if name.startswith("h")]),
        (["hint", "1_"], [id for id in IDS if id.startswith("1_")]),
        (["hint", "1_2", "fact"], ["factorial_is_exact"]),
        (["explain", "1_2", ""], [c.id for c in find("1_2").criteria]),
        (["watch", "1_2"], ["1_2"]),
        (["notebook", "de"], ["debug_1"]),
        (["reset", "zzz"], []),
        (["hint", "9_9", ""], []),
        (["grade", "1_1", "1_2"], ["1_2"]),
        (["completion", "f"], ["fish"]),
        (["hint", "1_2", "--la"], ["--lang"]),
    ],
)
def test_words_are_completed(words, wanted):
    """What is typed so far is completed to what the command takes there."""
    assert completed(*words) == wanted


def test_completing_loads_nothing_heavy():
    """A press of the Tab key answers at once: nothing that only grading needs is loaded."""
    program = """
import contextlib, os, sys
os.environ |= {"_LAB_COMPLETE": "bash_complete", "COMP_WORDS": "lab hint 1_2 p", "COMP_CWORD": "3"}
sys.argv = ["lab"]
from grader.cli import main
with contextlib.suppress(SystemExit):
    main()
heavy = {"celery", "kombu", "redis", "requests", "psutil", "rich", "jsonschema", "pydantic"}
print("loaded:", *sorted(set(sys.modules) & heavy))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert "powers" in run.stdout and run.stdout.endswith("loaded:\n"), run.stdout + run.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell):
    """Each shell parses the script that is printed for it, where the shell is there."""
    from click.testing import CliRunner

    run = CliRunner().invoke(completion_command, [shell])
    assert run.exit_code == 0 and "_LAB_COMPLETE" in run.stdout
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")

    parsed = subprocess.run([shell, "-n"], input=run.stdout, capture_output=True, text=True)

    assert parsed.returncode == 0, parsed.stderr


def test_every_command_is_there():
    """The table of commands names modules that hold them, with the help that stands there."""
    for name in COMMANDS:
        command = group.get_command(None, name)
        assert command is not None and command.name == name and command.help
