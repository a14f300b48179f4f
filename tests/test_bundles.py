"""What goes into Gradescope and GitHub Classroom works as far as it can be tried offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from ruamel.yaml import YAML

from grader.exercise import ROOT

GRADESCOPE = ROOT / "labs" / "gradescope"
WORKFLOW = ROOT / "labs" / "github-classroom" / "grade.yml"


@pytest.mark.parametrize("name", ["setup.sh", "run_autograder", "bundle"])
def test_scripts_are_sound(name):
    """Each script is executable and bash can read it."""
    script = GRADESCOPE / name

    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def autograder(tmp_path):
    """Gradescope's folders with an unpacked bundle of 1_2; its `lab` is this environment's."""
    if not (ROOT / ".git").exists():
        pytest.skip("a bundle is made from a git clone")
    out = tmp_path / "autograder.zip"
    subprocess.run([GRADESCOPE / "bundle", "1_2", out], check=True, capture_output=True)
    with zipfile.ZipFile(out) as archive:
        archive.extractall(tmp_path / "source")
    lab = tmp_path / "source" / "lab"
    lab.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m grader "$@"\n')
    for script in (lab, tmp_path / "source" / "run_autograder"):
        script.chmod(0o755)
    return tmp_path


def run(autograder):
    """Run the autograder as Gradescope does and return (exit status, results.json)."""
    env = {**os.environ, "AUTOGRADER": str(autograder), "PYTHONDONTWRITEBYTECODE": "1"}
    script = autograder / "source" / "run_autograder"
    done = subprocess.run([script], env=env, capture_output=True, text=True, timeout=300)
    results = autograder / "results" / "results.json"
    return done.returncode, json.loads(results.read_text()) if results.exists() else None


def test_gradescope_gets_its_results(autograder):
    """The bundle grades what lies in submission/ and leaves results.json with the score."""
    shutil.copytree(ROOT / "solutions" / "1_2", autograder / "submission")

    status, results = run(autograder)

    assert status == 0
    assert results["score"] == 140
    assert all(test["status"] == "passed" for test in results["tests"])
    assert not {"solutions", "tests"} & {p.name for p in (autograder / "source").iterdir()}


def test_gradescope_gets_a_zero_for_nothing(autograder):
    """An empty submission is the student's zero with a sentence, no error of the autograder."""
    (autograder / "submission").mkdir()

    status, results = run(autograder)

    assert status == 0
    assert results["score"] == 0
    assert "should hold calculator.py" in results["output"]


def test_a_bundle_needs_an_exercise(tmp_path):
    """An unknown exercise is said, and no file is made."""
    command = [GRADESCOPE / "bundle", "9_8", tmp_path / "x.zip"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 2
    assert "9_8" in done.stderr
    assert not (tmp_path / "x.zip").exists()


def test_the_workflow_is_sound():
    """The workflow parses, and each step is an action or a script that bash can read."""
    workflow = YAML(typ="safe").load(WORKFLOW.read_text(encoding="utf-8"))

    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "run" in step:
            subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)
    assert "./lab grade" in job["steps"][-1]["run"]


def test_the_workflows_last_step_fails_where_points_are_missing(tmp_path):
    """The step hands on lab's exit status and puts the score card on the run's page."""
    workflow = YAML(typ="safe").load(WORKFLOW.read_text(encoding="utf-8"))
    script = workflow["jobs"]["grade"]["steps"][-1]["run"]
    (tmp_path / "lab").write_text("#!/bin/sh\necho card >card.md\nexit 1\n")
    (tmp_path / "lab").chmod(0o755)
    env = {**os.environ, "GITHUB_WORKSPACE": "w", "GITHUB_STEP_SUMMARY": "page", "EXERCISE": "1_2"}

    done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=env)

    assert done.returncode == 1
    assert (tmp_path / "page").read_text() == "card\n"
