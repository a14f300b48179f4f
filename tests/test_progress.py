"""Where the student stands: what counts, what is kept, and what a broken file or disk does."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from grader import progress, record
from grader.exercise import find
from grader.progress import Mark, Standing, Step
from grader.verdict import Verdict

EXERCISE = find("1_2")


def test_best_and_last_are_kept(student, keep):
    """The best whole grading stays, the last one is replaced."""
    for failing in (("powers", "overflow"), (), ("powers",)):
        assert not keep(*failing)

    standing = progress.read()["1_2"]

    assert standing.best.full and standing.best.score == 100
    assert standing.last.score == 100 - EXERCISE.criterion("powers").points


def test_a_part_of_the_criteria_is_no_score(student, keep):
    """A run with -k replaces the last record, but is neither best nor last score."""
    keep("powers")
    keep(only=("basic_arithmetic",))

    assert progress.read()["1_2"].last.score < 100
    assert [entry["id"] for entry in record.last("1_2").entries("en")] == ["basic_arithmetic"]


def test_what_the_lab_failed_is_no_lost_point(student, keep):
    """Points that the lab could not judge are kept apart."""
    keep("powers", verdict=Verdict.UNKNOWN)

    assert progress.read()["1_2"].last.open == EXERCISE.criterion("powers").points


def test_other_peoples_work_is_not_kept(student, tmp_path, keep):
    """Another folder, private checks and a run without a finding leave no trace."""
    assert not record.note(EXERCISE, tmp_path, keep.result())
    assert not record.note(replace(EXERCISE, private=tmp_path), EXERCISE.folder, keep.result())
    assert not record.note(EXERCISE, EXERCISE.folder, replace(keep.result(), findings=()))
    assert not student.exists()


def test_a_link_to_the_exercise_is_the_students_own_work(student, tmp_path, keep):
    """The folder counts, by whatever path it is reached."""
    (tmp_path / "link").symlink_to(EXERCISE.folder)

    record.note(EXERCISE, tmp_path / "link", keep.result())

    assert record.last("1_2")


def test_a_hint_is_forgotten_once_its_criterion_passes(student, keep):
    """What passed on every broker begins with the question again, should it ever fail anew."""
    with progress.change("1_2") as standing:
        standing[0] = Standing(hints={"powers": Step(2, "x"), "overflow": Step(1, "y")})

    keep("overflow")

    assert set(progress.read()["1_2"].hints) == {"overflow"}


GARBAGE = ["", "{", "[]", "null", '{"exercises": 3}', "\x00", "[" * 100_000]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_a_broken_file_is_set_aside(student, text, keep):
    """A file that is no progress counts as empty, is told, and is never written over."""
    student.mkdir()
    file = student / "progress.json"
    file.write_text(text)

    assert progress.read() == {} and progress.broken() == file
    assert not keep()
    assert progress.broken() is None
    assert (student / "progress.broken-1.json").read_text() == text
    assert progress.read()["1_2"].best.full


@pytest.mark.parametrize(
    "row",
    [
        7,
        {"best": 3, "last": [], "hints": 1},
        {"best": {"score": "x"}, "hints": {"powers": {"step": 9}}},
        {"last": {"score": 1, "max_score": 1, "bonus": 0, "max_bonus": 0, "at": "yesterday"}},
        {"last": {"score": 1, "max_score": 1, "bonus": 0, "max_bonus": 0, "at": "2026-01-01"}},
    ],
)
def test_a_broken_entry_counts_as_none(student, row):
    """An entry of the wrong shape is no standing, and the others stay."""
    student.mkdir()
    mark = Mark(1, 2, 0, 0, "2026-01-01T00:00:00+00:00")
    good = {"last": vars(mark)}
    (student / "progress.json").write_text(json.dumps({"exercises": {"a": row, "b": good}}))

    assert progress.read() == {"a": Standing(), "b": Standing(last=mark)}


def test_many_at_once_lose_nothing(student):
    """Calls that change the file at the same time wait for each other."""

    def asking(n):
        with progress.change("1_2") as standing:
            steps = {**standing[0].hints, f"c{n}": Step(1, "x")}
            standing[0] = replace(standing[0], hints=steps)

    threads = [threading.Thread(target=asking, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(progress.read()["1_2"].hints) == 12


def test_a_folder_that_cannot_be_written_is_one_sentence(student, keep):
    """Where nothing can be kept, the grading stands and a sentence says why."""
    student.write_text("a file in the place of the folder")

    said = keep("powers")

    assert str(student) in said.render("en") and str(student) in said.render("zh")
    assert progress.read() == {} and record.last("1_2") is None


def test_a_full_disk_leaves_the_old_file(student, monkeypatch, keep):
    """A write that fails half-way leaves what was there, and no draft."""
    keep("powers")
    before = (student / "progress.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress.os, "fsync", full)
    assert "No space left" in keep().render("en")

    assert (student / "progress.json").read_bytes() == before
    assert not [p for p in student.rglob(".*") if p.is_file()]


def test_a_lock_that_is_held_is_one_sentence(student, monkeypatch, keep):
    """A call that never gives the lock back does not hold up the others for ever."""
    monkeypatch.setattr(progress, "LOCK_SECONDS", 0.05)
    with progress.change("1_2"):
        assert "could not be kept" in keep().render("en")


# The record


def test_one_record_an_exercise(student, keep):
    """Only the last run is there, however many there were."""
    for n in range(3):
        keep("powers", hint=f"hint {n}")

    assert [path.name for path in (student / "last").iterdir()] == ["1_2"]
    row = next(e for e in record.last("1_2").entries("en") if e["id"] == "powers")
    assert row["hint"] == "hint 2"


def test_a_record_stays_small(student, monkeypatch, keep):
    """Where too much was seen, what passed is left out first, then all of it; the verdicts stay."""
    monkeypatch.setattr(record, "LARGEST", 12_000)

    def scene(id, size):
        noise = random.Random(1).randbytes(size).hex()
        return {"broker": "redis", "checks": [{"id": id}], "calls": [noise]}

    keep("powers", scenes=[scene("powers", 10), scene("overflow", 90_000)])
    assert [s["checks"][0]["id"] for s in record.last("1_2").scenes] in ([], ["powers"])
    assert (student / "last" / "1_2").stat().st_size <= 12_000


@pytest.mark.parametrize("content", [b"", b"garbage", b"x\x9c", bytes(5000)])
def test_a_broken_record_is_no_record(student, content, keep):
    """What can't be read counts as no run; the next run replaces it."""
    keep("powers")
    Path(student / "last" / "1_2").write_bytes(content)

    assert record.last("1_2") is None
    keep("powers")
    assert record.last("1_2")
