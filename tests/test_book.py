"""grader/classroom/: the grade book keeps everything, and a class gets into it step by step."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.exc import DatabaseError

from grader.classroom import course, here, job
from grader.classroom.book import Book, Key
from grader.classroom.course import Settings, grade_class
from grader.classroom.evidence import unpack
from grader.classroom.roster import Person, Roster
from grader.classroom.tables import Override, Table
from grader.classroom.work import Piece, Work
from grader.errors import LabFault, UsageError
from grader.exercise import find
from grader.sandbox import Sandbox
from grader.verdict import Finding, Result, Verdict
from grader.words import Text

EXERCISE = find("1_2")
PASSED, FAILED, BLOCKED, UNKNOWN = Verdict


@pytest.fixture
def book(tmp_path):
    """An empty grade book."""
    with Book(tmp_path / "grades.sqlite", new=True) as book:
        yield book


@pytest.fixture
def classroom(book, tmp_path, monkeypatch):
    """Grade works into the book without brokers: `verdicts` says what comes of each work's text."""
    verdicts = {}
    seeds = []

    def grading(exercise, submission, brokers, stack, seed, keep):
        text = (submission.path / "calculator.py").read_text()
        found = verdicts.get(text, PASSED)
        found = found.pop(0) if isinstance(found, list) else found
        if isinstance(found, BaseException):
            raise found
        seeds.append(seed)
        finding = Finding("add", Text.plain("Adds."), 10, False, found, brokers[0])
        return Result(exercise.id, str(submission.path), brokers, seed, (finding,))

    @contextlib.contextmanager
    def opened(stack):
        folder = tmp_path / "home"
        folder.mkdir(exist_ok=True)
        home = SimpleNamespace(folder=folder, close=lambda: None)
        yield SimpleNamespace(
            home=home, missing=lambda asked: ("rabbitmq",), prepare=lambda b: None
        )

    monkeypatch.setattr(job, "grade", grading)
    monkeypatch.setattr("grader.grading.best", lambda: Sandbox("bubblewrap"))
    monkeypatch.setattr(here, "session", opened)
    monkeypatch.setattr(here, "demand", lambda box, unsafe: None)

    def run(*texts, **settings):
        works = []
        for number, text in enumerate(texts):
            folder = tmp_path / "class" / f"s{number}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "calculator.py").write_text(text)
            works.append(Work(f"s{number}", (Piece(folder),), "1_2"))
        chosen = Settings(**{"jobs": 1, "seed": 5, **settings})
        steps = grade_class(works, [EXERCISE], book, chosen, hands(chosen))
        return sorted(steps, key=lambda step: step.work.student)  # two may end at the same moment

    return SimpleNamespace(run=run, verdicts=verdicts, seeds=seeds, book=book)


def hands(settings):
    """Return what gives this machine's hands."""
    return lambda exercises: here.Here(settings, exercises, print)


def key(number=0):
    return Key(f"s{number}", "1_2")


def test_every_result_is_kept(classroom):
    """A class of three gives three attempts with their evidence, seeds and versions."""
    classroom.verdicts["b"] = FAILED

    steps = classroom.run("a", "b", "c")

    assert [step.attempt.score for step in steps] == [10, 0, 10]
    row = classroom.book.attempts(key(1))[0]
    documents = unpack(row.evidence)["documents"]
    assert documents["zh"]["criteria"][0]["verdict"] == "failed"
    assert (row.seed, row.verdicts, row.max_score) == (5, {"add@redis": "failed"}, 100)
    assert row.versions["celery"]


def test_unchanged_work_is_not_graded_again(classroom):
    """A second call grades what is new or changed, and nothing else."""
    classroom.run("a", "b")

    steps = classroom.run("a", "changed", "new")

    assert {s.work.student: bool(s.attempt) for s in steps} == {
        "s0": False,
        "s1": True,
        "s2": True,
    }
    assert [len(classroom.book.attempts(key(n))) for n in range(3)] == [1, 2, 1]


@pytest.mark.parametrize("name", ["checks_print", "environment_print"])
def test_other_checks_or_versions_make_it_new(classroom, monkeypatch, name):
    """When the checks or the environment changed, everything is graded again."""
    classroom.run("a")
    monkeypatch.setattr(course, name, lambda *_: "other")

    assert [bool(step.attempt) for step in classroom.run("a")] == [True]


def test_a_lab_fault_is_tried_again_and_listed(classroom):
    """What the lab failed is graded once more at the end; a good second attempt counts."""
    classroom.verdicts |= {"a": [UNKNOWN, PASSED], "b": UNKNOWN}

    steps = classroom.run("a", "b", "c")

    assert len(steps) == 5
    good, bad = classroom.book.standing(key(0)), classroom.book.standing(key(1))
    assert (good.score, good.faults, good.turns) == (10, 0, 1)
    assert (bad.score, bad.faults) == (None, 2)


def test_what_the_lab_failed_is_not_done(classroom):
    """The next call grades it again although nothing changed."""
    classroom.verdicts["a"] = [UNKNOWN, UNKNOWN, PASSED]
    classroom.run("a")

    assert [bool(step.attempt) for step in classroom.run("a")] == [True]
    assert classroom.book.standing(key()).score == 10


def test_verdicts_that_differ_are_counted(classroom):
    """Of three gradings of the same work two agree with the newest, with a seed each."""
    classroom.verdicts["a"] = [PASSED, FAILED, PASSED]

    classroom.run("a", runs=3)

    standing = classroom.book.standing(key())
    assert (standing.same, standing.turns, classroom.seeds) == (2, 3, [5, 6, 7])


def test_more_runs_add_to_those_that_there_are(classroom):
    """A call that wants three gradings does the two that lack."""
    classroom.run("a")

    assert len(classroom.run("a", runs=3)) == 2


def test_regrading_keeps_the_earlier_attempts(classroom):
    """Grading again adds an attempt, and the newest counts."""
    classroom.verdicts["a"] = [PASSED, FAILED]
    classroom.run("a")

    classroom.run("a", again=True)

    assert [row.score for row in classroom.book.attempts(key())] == [10, 0]
    assert classroom.book.standing(key()).score == 0


def test_an_end_in_the_midst_loses_nothing(classroom):
    """What was graded before an interrupt is in the book, and the next call does the rest."""
    classroom.verdicts["c"] = [KeyboardInterrupt(), PASSED]
    with pytest.raises(KeyboardInterrupt):
        classroom.run("a", "b", "c", "d")
    done = classroom.book.count()

    steps = classroom.run("a", "b", "c", "d")

    assert done in (2, 3)  # the last was under way when the third was interrupted
    assert sum(step.attempt is not None for step in steps) == 4 - done
    assert classroom.book.count() == 4


def test_work_that_cannot_be_read_is_ungradable(classroom, tmp_path):
    """Work that is gone gets no points, and its evidence says why."""
    work = Work("s9", (Piece(tmp_path / "gone"),), "1_2")

    chosen = Settings(seed=1)
    (step,) = grade_class([work], [EXERCISE], classroom.book, chosen, hands(chosen))

    row = classroom.book.attempts(Key("s9", "1_2"))[0]
    assert (step.attempt.status, step.attempt.score, row.max_score) == ("ungradable", 0, 100)
    assert "gone" in unpack(row.evidence)["documents"]["en"]["note"]


def test_without_isolation_nothing_is_graded(classroom, monkeypatch):
    """A machine that can't hold strangers' work refuses before anything runs."""

    def refuse(box, unsafe):
        raise LabFault("no_space", folder="x", free=0, wanted=1)

    monkeypatch.setattr(here, "demand", refuse)

    with pytest.raises(LabFault):
        classroom.run("a")
    assert classroom.book.count() == 0


def test_rows_are_never_changed(classroom):
    """The file itself refuses a change or a removal, whoever asks."""
    classroom.run("a")
    classroom.book.enrol(Roster([Person("s0", "Ann", "", {})]))
    with sqlite3.connect(classroom.book.path) as raw:
        for table in ("attempts", "students"):
            for command in (f"DELETE FROM {table}", f"UPDATE {table} SET id = id + 1"):
                with pytest.raises(sqlite3.DatabaseError, match="never changed"):
                    raw.execute(command)


def test_the_same_grading_is_not_kept_twice(classroom):
    """A second row for the same turn of the same grading is refused."""
    (step,) = classroom.run("a")
    columns = {c.name: getattr(step.attempt, c.name) for c in step.attempt.__table__.columns}
    del columns["id"]

    with pytest.raises(DatabaseError):
        classroom.book.add(type(step.attempt)(**columns))


def test_overrides(classroom):
    """A score set by hand counts until it is lifted; everything stays in the history."""
    (step,) = classroom.run("a")
    at = step.attempt.started_at
    for score in (3.5, None):
        words = {"reason": "seen by hand", "by": "me", "at": at}
        classroom.book.add(Override(student="s0", exercise="1_2", score=score, **words))
        standing = classroom.book.standing(key())
        assert standing.score == (10 if score is None else 3.5)
    assert len(classroom.book.overrides(key())) == 2


def test_the_roster_is_kept(book):
    """A person who changed is written down anew; one who did not is not."""
    ann = Person("a", "Ann", "red", {"student": "a"})
    book.enrol(Roster([ann]))
    book.enrol(Roster([ann]))
    book.enrol(Roster([replace(ann, group="blue")]))

    assert [person.group for person in book.people()] == ["blue"]


def test_the_migrations_make_the_tables_that_are_used(book):
    """A new book has just the columns and indexes that the code knows: no migration is missing."""
    engine = create_engine(f"sqlite:///{book.path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_a_book_opens_again(book):
    """A book that exists is opened as it is."""
    with Book(book.path) as again:
        assert again.count() == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.sqlite", None, "no grade book"),
        ("text.sqlite", b"not a database, but text that is long enough" * 99, "not a grade book"),
        ("sub/none.sqlite", None, "no grade book"),
    ],
)
def test_what_is_no_book_is_said(tmp_path, name, content, words):
    """A file that is missing, or something else, is an error with its path; it stays as it is."""
    file = tmp_path / name
    if content:
        file.write_bytes(content)

    with pytest.raises(UsageError, match=words):
        Book(file)

    assert content is None or file.read_bytes() == content


def test_a_book_of_a_newer_version_is_refused(book):
    """A book that a newer lab wrote is left alone."""
    with sqlite3.connect(book.path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(UsageError, match="9999"):
        Book(book.path)


def test_a_new_book_needs_a_folder(tmp_path):
    """A book can't be made in a folder that is not there, nor in place of a folder."""
    for path in (tmp_path / "none" / "b.sqlite", tmp_path):
        with pytest.raises(UsageError):
            Book(path, new=True)
