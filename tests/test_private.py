"""grader/private.py: an instructor's own checks, graded with an exercise's, shown to nobody."""

from __future__ import annotations

import json

import pytest

from grader.errors import BadExercise, UsageError
from grader.exercise import find
from grader.private import for_student, with_private

EXERCISE = find("1_2")
RUBRIC = """
[criteria.private_greeting]
points = 10
zh = "私有检查"
[criteria.private_greeting.hints.default]
en = "What does it say?"
zh = "它说了什么？"
"""
CHECK = '''
from grader.check import check, hint, named
from grader.expect import returns


@check(after=named("%s"))
def test_private_greeting(lab):
    """It greets a private name."""
    assert lab.call("greet", "Zaphod") == returns("Hello, Zaphod!")
'''


def put(folder, rubric=RUBRIC, check=CHECK % "arithmetic", id="1_2", name="test_own.py"):
    """Write private checks and return their folder."""
    (folder / id).mkdir(parents=True)
    (folder / id / "private.toml").write_text(rubric, encoding="utf-8")
    (folder / id / name).write_text(check, encoding="utf-8")
    return folder


def test_they_join_the_exercises_own(tmp_path):
    """The criteria and checks of both are there, each once, the private ones last."""
    joined = with_private(EXERCISE, put(tmp_path / "own"))

    assert [c.id for c in joined.criteria][-1] == "private_greeting"
    assert len(joined.criteria) == len(EXERCISE.criteria) + 1
    assert joined.checks["private_greeting"].claim == "It greets a private name."
    assert set(EXERCISE.checks) < set(joined.checks)


def test_an_exercise_without_any_stays_as_it_is(tmp_path):
    """No folder for the exercise, or none at all, changes nothing."""
    put(tmp_path / "own")

    assert with_private(find("1_1"), tmp_path / "own") == find("1_1")
    assert with_private(EXERCISE, None) is EXERCISE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rubric": "x ="}, "private.toml"),
        ({"rubric": RUBRIC.replace("private_greeting", "greeting")}, "private_"),
        ({"rubric": RUBRIC.replace("10", "-1")}, "points"),
        ({"rubric": ""}, "criteria"),
        ({"name": "test_calculator.py"}, "test_calculator.py"),
    ],
)
def test_broken_ones_are_said(tmp_path, changes, words):
    """Broken TOML, a public id, bad points and a file's name that is taken are all named."""
    with pytest.raises(BadExercise, match=words):
        with_private(EXERCISE, put(tmp_path / "own", **changes))


def test_a_missing_folder_is_said(tmp_path):
    """A folder that is not there is the call's mistake."""
    with pytest.raises(UsageError, match="none"):
        with_private(EXERCISE, tmp_path / "none")


def test_students_see_points_alone():
    """Of a private criterion a student gets verdict and points, of all others everything."""
    own = {"id": "private_x", "title": "Secret", "verdict": "failed", "points": 0}
    own |= {"expected": "secret", "observed": "secret", "hint": "secret"}
    public = {**own, "id": "add", "title": "Adds.", "expected": "a sum"}

    shown = for_student({"criteria": [public, own], "seed": 5, "score": 1}, "en")

    assert shown["criteria"][0] == public
    assert "ecret" not in json.dumps(shown["criteria"][1])
    assert (shown["criteria"][1]["verdict"], shown["seed"]) == ("failed", "")


def test_they_are_graded_live(copy, tmp_path):
    """`lab grade --checks` runs a private check after the exercise's own, and its points count."""
    own = put(tmp_path / "own", check=CHECK % "greets", id="9_9")

    run = copy.lab("grade", "solutions", "--checks", own, "--format", "json")

    assert run.returncode == 0, run.stderr
    (result,) = json.loads(run.stdout)["results"]
    assert (result["score"], result["max_score"]) == (110, 110)
