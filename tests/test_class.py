"""`lab class` and the commands around its grade book, as an instructor meets them."""

from __future__ import annotations

import shutil
import signal
import sqlite3

import pytest

from grader.process import wait_until

RIGHT = """from celery import Celery
app = Celery('greeting')
@app.task(name='greeting.greet')
def greet(name):
    return f'Hello, {name}!'
"""
WRONG = RIGHT.replace("Hello", "Bye")


@pytest.fixture
def submissions(tmp_path):
    """A class of four: two right, one wrong, one that does not start."""
    texts = {"ann": RIGHT, "bob": WRONG, "çé": RIGHT + "# mine\n", "dan": "1/0\n"}
    for name, text in texts.items():
        (tmp_path / "all of them" / name).mkdir(parents=True)
        (tmp_path / "all of them" / name / "greeting.py").write_text(text)
    return tmp_path / "all of them"


def rows(book):
    """Return (student, score) of every attempt in a book."""
    with sqlite3.connect(book) as raw:
        return raw.execute("SELECT student, score FROM attempts ORDER BY student, id").fetchall()


SCORES = [("ann", 100), ("bob", 0), ("dan", 0), ("çé", 100)]


def test_a_class_is_graded_into_its_book(copy, submissions, tmp_path):
    """Whose work is whose, grades, an unchanged second call, an override and the history."""
    book = tmp_path / "grades.sqlite"
    shown = copy.lab("class", submissions, "--dry-run")
    first = copy.lab("class", submissions, "--out", book)
    second = copy.lab("class", submissions, "--out", book, "--lang", "zh")
    changed = copy.lab("override", book, "bob", "9_9", "40", "--reason", "shown by hand")
    said = copy.lab("history", book)
    again = copy.lab("regrade", book, "--student", "ann")

    for run in (shown, first, second, changed, said, again):
        assert run.returncode == 0, run.stderr
    assert "çé" in shown.stdout
    assert "Graded 4, unchanged 0" in first.stdout
    assert "未变动 4 份" in second.stdout
    assert "shown by hand" in said.stdout
    assert rows(book) == sorted([*SCORES, ("ann", 100)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all of them", "grades.sqlite"]
    assert copy.left_behind() == []


def test_a_killed_call_goes_on_where_it_stopped(copy, submissions, tmp_path):
    """After SIGKILL the next call grades the rest: no result is lost and none is doubled."""
    book = tmp_path / "grades.sqlite"
    run = copy.start("class", submissions, "--out", book, "--jobs", "1")
    wait_until(lambda: book.exists() and stored(book), 60, lambda: AssertionError("no result"))
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    kept = rows(book)

    done = copy.lab("class", submissions, "--out", book)

    assert done.returncode == 0, done.stderr
    assert 1 <= len(kept) < 4
    assert f"unchanged {len(kept)}" in done.stdout
    assert rows(book) == SCORES
    assert copy.left_behind() == []


def stored(book):
    """Whether the book has a result yet."""
    try:
        return bool(rows(book))
    except sqlite3.OperationalError:  # it is being made
        return False


def test_an_interrupted_call_says_so(copy, submissions, tmp_path):
    """Ctrl-C ends a class like any other call: nothing is left, and what is known is kept."""
    book = tmp_path / "grades.sqlite"
    run = copy.start("class", submissions, "--out", book, "--jobs", "1")
    wait_until(lambda: book.exists() and stored(book), 60, lambda: AssertionError("no result"))

    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)

    assert run.returncode == 130
    assert "Traceback" not in said
    assert rows(book)
    assert copy.left_behind() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["class", "nowhere", "--out", "b.sqlite"], "There is nothing at"),
        (["class", "."], "--out"),
        (["class", ".", "--out", "no/such/b.sqlite"], "no/such"),
        (["class", ".", "--out", "b.sqlite", "--deadline", "soon"], "soon"),
        (["class", ".", "--out", "b.sqlite", "--exercise", "9_8"], "9_9"),
        (["class", ".", "--out", "b.sqlite", "--roster", "none.csv"], "none.csv"),
        (["class", ".", "--out", "pyproject.toml"], "not a grade book"),
        (["history", "none.sqlite"], "no grade book"),
        (["regrade", "none.sqlite"], "no grade book"),
        (["override", "none.sqlite", "ann", "9_9", "--reason", "x"], "--lift"),
    ],
)
def test_a_wrong_call_is_exit_status_2(copy, arguments, words):
    """A wrong call says what was found and what to type, with exit status 2 and no traceback."""
    run = copy.lab(*arguments)

    assert run.returncode == 2, run.stdout + run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    (copy.root / "b.sqlite").unlink(missing_ok=True)


def test_nobody_there_is_no_error(copy, tmp_path):
    """A folder without anybody's work says so for what lies there, and grades nothing."""
    (tmp_path / "empty").mkdir()
    shutil.copy(copy.root / "pyproject.toml", tmp_path / "empty")

    run = copy.lab("class", tmp_path / "empty", "--out", tmp_path / "b.sqlite")

    assert run.returncode == 0, run.stderr
    assert "pyproject.toml" in run.stderr
