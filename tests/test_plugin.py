"""`pytest exercises/<id>`: ordinary pytest, then the score card."""

from __future__ import annotations

import re

import pytest

SYNTAX = "from celery import Celery\napp = Celery('greeting'\n"


def test_the_starter_fails_with_a_sentence(copy):
    """The untouched starter fails; the card says what was expected, what was seen, and asks."""
    run = copy.pytest("exercises/9_9")

    assert run.returncode == 1
    assert "1 failed" in run.stdout
    assert re.search(r"expected +greet\('\w{6}'\) returns 'Hello, \w{6}!'", run.stdout)
    assert "NotImplementedError" in run.stdout
    assert "Which TODO of the starter does this wait for?" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr


def test_the_solution_passes_from_inside_the_folder(copy):
    """From inside the exercise's folder, with a relative submission, pytest is green."""
    run = copy.pytest("--submission", "../../solutions/9_9", cwd=copy.starter)

    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout
    assert "100/100" in run.stdout


def test_the_card_speaks_chinese(copy):
    """With --lang zh the card and the criterion's own hint are Chinese."""
    wrong = copy.root / "tests" / "wrong_answers" / "9_9" / "no_name"

    run = copy.pytest("exercises/9_9", "--lang", "zh", "-q", "--submission", wrong)

    assert run.returncode == 1
    assert "worker 的日志对这个任务说了什么？" in run.stdout
    assert "得分" in run.stdout


def test_a_seed_repeats_the_inputs(copy):
    """Two runs with one seed draw the same inputs, another seed draws others."""
    drawn = [
        re.search(r"greet\('(\w+)'\)", copy.pytest("exercises/9_9", f"--seed={seed}").stdout)[1]
        for seed in (7, 7, 8)
    ]

    assert drawn[0] == drawn[1] != drawn[2]


def test_ordinary_options_work(copy):
    """-k that matches nothing, -x, --lf and --collect-only behave as pytest's own."""
    assert copy.pytest("exercises/9_9", "-k", "nothing").returncode == 5
    assert "test_greets[redis]" in copy.pytest("exercises/9_9", "--collect-only", "-q").stdout
    assert copy.pytest("exercises/9_9", "-x", "--lf").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--submission", "nowhere"], "There is nothing at"),
        (["--broker", "rabbitmq"], "does not run on rabbitmq"),
        (["--stack", "cloud"], "cloud"),
    ],
)
def test_a_wrong_call_is_told_in_a_sentence(copy, arguments, words):
    """A wrong option ends with a sentence, a status above 1, and no traceback."""
    run = copy.pytest("exercises/9_9", *arguments)

    assert run.returncode in (2, 4)
    assert words in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert "INTERNALERROR" not in run.stdout + run.stderr


def test_a_broken_exercise_names_file_and_key(copy):
    """A broken exercise.toml ends collection with the file and the key."""
    file = copy.starter / "exercise.toml"
    whole = file.read_text()
    file.write_text(whole.replace("points = 100", "points = 'many'"))
    try:
        run = copy.pytest("exercises/9_9")
    finally:
        file.write_text(whole)

    assert run.returncode == 2
    assert "exercise.toml" in run.stdout + run.stderr
    assert "criteria.greets.points" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_a_syntax_error_is_the_students(copy, write):
    """A submission that can't be parsed fails with the line, and nothing else breaks."""
    run = copy.pytest("exercises/9_9", "--submission", write(SYNTAX))

    assert run.returncode == 1
    assert "SyntaxError" in run.stdout
    assert "greeting.py" in run.stdout


def test_nothing_is_left_behind(copy):
    """After all of these runs no file and no process of theirs is left."""
    assert copy.left_behind() == []
