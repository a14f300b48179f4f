"""grader/classroom/: whose work is whose, as platforms export it and as people lay it out."""

from __future__ import annotations

import os
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dulwich import porcelain

from grader.classroom.intake import collect, open_export
from grader.classroom.roster import read_roster
from grader.errors import BadSubmission, LabFault, UsageError
from grader.exercise import find

EXERCISES = [find("1_1"), find("1_2")]
CODE = "from celery import Celery\n"
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def put(tmp_path):
    """Write a file of a submission; its time is noon of the last day of January."""

    def putting(name, text=CODE, at=NOON):
        file = tmp_path / "class" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        os.utime(file, (at.timestamp(), at.timestamp()))
        return file

    return putting


@pytest.fixture
def taken(tmp_path):
    """Collect and return {(student, exercise): work}, and the strays' keys."""

    def taking(root=None, **options):
        found = collect(root or tmp_path / "class", EXERCISES, **options)
        works = {(work.student, work.exercise): work for work in found.works}
        return works, sorted(stray.key for stray in found.strays)

    return taking


def test_a_folder_a_student(put, taken):
    """Each folder is a student's; what lies in it says which exercises it is for."""
    put("ann/calculator.py")
    put("bob/1_2/calculator.py")
    put("bob/1_1/app.py")
    put("çé 学生/lab/1_2/calculator.py")
    put("dan/notes.txt")
    put("readme.txt")

    works, strays = taken()

    assert set(works) == {
        ("ann", "1_2"),
        ("bob", "1_1"),
        ("bob", "1_2"),
        ("çé 学生", "1_2"),
    }
    assert works["bob", "1_2"].inside == "1_2"
    assert works["ann", "1_2"].at == NOON
    assert strays == ["stray_exercise", "stray_file"]


def test_the_asked_exercise_gets_everybody(put, taken):
    """With one exercise asked for, also work without its module is graded for it."""
    put("ann/calc.py")
    put("bob/1_2/calculator.py")
    put("bob/app.py")

    works, _ = taken(asked=["1_2"])

    assert set(works) == {("ann", "1_2"), ("bob", "1_2")}


def test_archives(put, taken, tmp_path):
    """An archive a student is read without being unpacked; a package counts as the module."""
    put("x")
    root = tmp_path / "class"
    with zipfile.ZipFile(root / "ann.zip", "w") as archive:
        archive.writestr("work/1_2/calculator/__init__.py", CODE)
    source = put("../calculator.py")
    with tarfile.open(root / "bob.smith.tar.gz", "w:gz") as archive:
        archive.add(source, "calculator.py")

    works, _ = taken()

    assert set(works) == {("ann", "1_2"), ("bob.smith", "1_2")}
    assert works["ann", "1_2"].inside == "work/1_2"
    laid = works["ann", "1_2"].lay(tmp_path / "laid")
    assert (laid.path / "calculator" / "__init__.py").read_text() == CODE


def test_a_broken_archive_is_that_students(put, taken, tmp_path):
    """A broken archive of the asked exercise is kept: its grading will say what is wrong."""
    put("ann.zip", "no archive")

    works, strays = taken(asked=["1_2"])

    assert list(works) == [("ann", "1_2")]
    assert strays == []


def test_canvas(put, taken, tmp_path):
    """Canvas names loose files by student, lateness and ids; later uploads end in a number."""
    put("doejane_LATE_1234_56789_calculator-2.py")
    put("doejane_LATE_1234_56790_web.py")
    put("leeann_77_88_calculator.zip", "x")

    works, strays = taken(asked=["1_2"])

    jane, ann = works["doejane", "1_2"], works["leeann", "1_2"]
    laid = jane.lay(tmp_path / "laid")
    assert sorted(p.name for p in laid.path.iterdir()) == ["calculator.py", "web.py"]
    assert (jane.late, ann.late, ann.whole.suffix) == (True, False, ".zip")
    assert jane.also == ("1234",)
    assert strays == []


def test_moodle(put, taken, tmp_path):
    """Moodle has folders, or loose files; typed text beside them is nobody's work."""
    put("Jane Doe_12345_assignsubmission_file_/calculator.py")
    put("Jane Doe_12345_assignsubmission_onlinetext_/onlinetext.html")
    put("Ann Lee_777_assignsubmission_file_calculator.py")
    put("Tom Ray_888_assignsubmission_file_/all.zip", "x")

    works, strays = taken(asked=["1_2"])

    assert {student for student, _ in works} == {"Jane Doe", "Ann Lee", "Tom Ray"}
    laid = works["Ann Lee", "1_2"].lay(tmp_path / "laid")
    assert (laid.path / "calculator.py").is_file()
    assert works["Tom Ray", "1_2"].whole.name == "all.zip"
    assert strays == []


GRADESCOPE = """
submission_11:
  :submitters:
  - :name: Jane Doe
    :sid: '1234'
    :email: jane@example.org
  - :name: Ann Lee
    :sid: '777'
    :email: ann@example.org
  :created_at: 2027-01-31 13:00:00.123 Z
submission_12:
  :submitters:
  - :name: Tom Ray
    :sid: ''
  :created_at: 2027-01-31 11:00:00 UTC
../outside: {}
"""


def test_gradescope(put, taken):
    """Gradescope's metadata names the submitters and the time; nothing outside is taken."""
    put("submission_metadata.yml", GRADESCOPE)
    put("submission_11/calculator.py")
    put("submission_12/calculator.py")
    put("../outside/calculator.py")

    works, _ = taken(deadline=NOON)

    assert set(works) == {("jane@example.org", "1_2"), ("Tom Ray", "1_2")}
    jane = works["jane@example.org", "1_2"]
    assert (jane.late, works["Tom Ray", "1_2"].late) == (True, False)
    assert "ann@example.org" in jane.also


@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b", "submission_1: {:created_at: soon}"])
def test_broken_metadata_is_said(put, taken, text):
    """Metadata that Gradescope did not write is an error with the file's name."""
    put("submission_metadata.yml", text)
    put("submission_1/calculator.py")

    with pytest.raises(UsageError, match="submission_metadata"):
        taken()


def clone(folder, *commits):
    """Make a repository with commits, (file, text, time) each."""
    folder.mkdir(parents=True)
    porcelain.init(str(folder))
    for name, text, at in commits:
        (folder / name).write_text(text)
        porcelain.add(str(folder), [str(folder / name)])
        stamp = at.timestamp()
        who = b"A <a@example.org>"
        porcelain.commit(
            str(folder),
            message=b"work",
            author=who,
            committer=who,
            commit_timestamp=stamp,
            author_timestamp=stamp,
        )
    return folder


def test_clones(put, taken, tmp_path):
    """Of a clone the last commit in time is graded, whatever lies in the folder by now."""
    root = tmp_path / "class"
    before, after = NOON.replace(hour=10), NOON.replace(hour=14)
    for name in ("lab-1-ann", "lab-1-anton"):
        clone(root / name, ("calculator.py", "early\n", before), ("calculator.py", "late\n", after))
    (root / "lab-1-ann" / "calculator.py").write_text("not committed\n")

    works, _ = taken(deadline=NOON)

    assert set(works) == {("ann", "1_2"), ("anton", "1_2")}
    ann = works["ann", "1_2"]
    assert (ann.at, ann.late, ann.remark) == (before, False, "1 later commits")
    assert (ann.lay(tmp_path / "laid").path / "calculator.py").read_text() == "early\n"
    newest = taken()[0]["ann", "1_2"]
    assert newest.digest() != ann.digest()


def test_a_bare_repository_is_read(taken, tmp_path):
    """What was pushed to a bare repository is graded; its .git is no part of the name."""
    root = tmp_path / "class"
    work = clone(tmp_path / "ann", ("calculator.py", CODE, NOON))
    root.mkdir(exist_ok=True)
    porcelain.clone(str(work), str(root / "ann.git"), bare=True, checkout=False).close()

    works, _ = taken()

    ann = works["ann", "1_2"]
    assert ann.at == NOON
    assert (ann.lay(tmp_path / "laid").path / "calculator.py").read_text() == CODE


def test_an_archive_that_is_broken_is_named(put, taken):
    """Among several exercises it is nobody's work, and what is said is not that it was empty."""
    put("ann.zip", "no archive")

    works, strays = taken()

    assert not works
    assert strays == ["stray_broken"]


def test_a_branch_that_is_missing_is_said(put, taken, tmp_path):
    """Who has no such branch is graded as having handed in nothing, and the remark says so."""
    clone(tmp_path / "class" / "ann", ("calculator.py", CODE, NOON))

    works, _ = taken(asked=["1_2"], ref="final")

    assert "final" in works["ann", "1_2"].remark


def test_a_repository_elsewhere_is_not_followed(put, taken, tmp_path):
    """A .git file that points to another student's clone is an ordinary file."""
    other = clone(tmp_path / "class" / "ann", ("calculator.py", CODE, NOON))
    put("eve/.git", f"gitdir: {other / '.git'}\n")
    put("eve/other.py")

    works, strays = taken()

    assert set(works) == {("ann", "1_2")}
    assert strays == ["stray_exercise"]


def test_links_are_nobodys_work(put, taken, tmp_path):
    """A link among the submissions, or in Moodle's folder, is passed over."""
    secret = put("../calculator.py", "secret\n")
    put("Jane Doe_1_assignsubmission_file_/calculator.py")
    root = tmp_path / "class"
    (root / "eve").symlink_to(tmp_path)
    (root / "Eve X_2_assignsubmission_file_").mkdir()
    (root / "Eve X_2_assignsubmission_file_" / "calculator.py").symlink_to(secret)

    works, _ = taken()

    assert set(works) == {("Jane Doe", "1_2")}


def test_the_newest_of_two_counts(put, taken):
    """Of two works of the same student the newer one is taken, and the other is named."""
    put("ann/calculator.py", at=NOON.replace(hour=10))
    put("Ann/calculator.py", "new\n")

    works, strays = taken()

    assert list(works) == [("Ann", "1_2")]
    assert strays == ["stray_older"]


def test_an_exports_archive(put, taken, tmp_path):
    """The archive as it was downloaded is opened; a broken or missing one is said."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("class/doejane_1_2_calculator.py", CODE)
    root = open_export(tmp_path / "all.zip", tmp_path / "open")

    assert set(taken(root)[0]) == {("doejane", "1_2")}
    (tmp_path / "bad.zip").write_text("x")
    with pytest.raises(UsageError, match=r"bad\.zip"):
        open_export(tmp_path / "bad.zip", tmp_path / "open2")
    with pytest.raises(UsageError, match="nothing"):
        open_export(tmp_path / "none", tmp_path / "open3")


def test_the_digest_is_that_of_what_is_graded(put, taken):
    """A change in what is graded changes the digest; a file of another exercise does not."""
    put("ann/1_2/calculator.py")
    put("ann/1_1/app.py")
    first = taken()[0]["ann", "1_2"].digest()
    put("ann/1_1/app.py", "other\n")
    same = taken()[0]["ann", "1_2"].digest()
    put("ann/1_2/calculator.py", "other\n")

    assert first == same != taken()[0]["ann", "1_2"].digest()


def test_work_that_is_gone_is_said(put, taken, tmp_path):
    """Work that vanished between the look and the grading is an error that names it."""
    put("ann/calculator.py")
    work = taken()[0]["ann", "1_2"]
    (tmp_path / "class" / "ann").rename(tmp_path / "away")

    with pytest.raises(BadSubmission, match="ann"):
        work.lay(tmp_path / "laid")


@pytest.mark.parametrize(
    ("error", "expected"),
    [(FileNotFoundError, BadSubmission), (PermissionError, BadSubmission), (OSError, LabFault)],
)
def test_files_that_cannot_be_joined_are_said(put, taken, tmp_path, monkeypatch, error, expected):
    """A loose file that is gone or closed is the student's, a full disk the lab's failure."""
    put("doejane_1_2_calculator.py")
    work = taken()[0]["doejane", "1_2"]

    def refuse(source, *_, **__):
        raise error(28, "no", str(source))

    monkeypatch.setattr("shutil.copyfile", refuse)

    with pytest.raises(expected):
        work.lay(tmp_path / "laid")


ROSTERS = {
    "canvas": 'Student,ID,SIS Login ID,Section\n    Points Possible,,,\n"Doe, Jane",1234,jdoe,A\n'
    '"Lee, Ann",777,alee,A\n"Student, Test",1,0ab,A\n',
    "gradescope": "Name,SID,Email,Role\nJane Doe,,j@x.org,Student\nAnn Lee,7,a@x.org,Student\n",
    "groups": "First name,Last name,Email address,Groups\nJane,Doe,j@x.org,Red\n"
    "Ann,Lee,a@x.org,Red\n",
    "moodle": "First name,Last name,ID number,Email address\nJane,Doe,9,j@x.org\nAnn,Lee,8,\n",
    "github": "identifier,github_username,name\n1234,janed,Jane Doe\n777,annl,Ann Lee\n",
    "own": "student,name,group\njane,Jane Doe,red\nann,Ann Lee,red\n",
}


@pytest.mark.parametrize("kind", ROSTERS)
def test_rosters(tmp_path, kind):
    """Each platform's roster finds a student by the names that exports use."""
    file = tmp_path / "roster.csv"
    file.write_text("\ufeff" + ROSTERS[kind], encoding="utf-8")
    roster = read_roster(file)

    jane = roster.find("Jane Doe")

    assert jane == roster.find("doejane") == roster.people[0]
    assert roster.find("somebody", "JANE DOE") == jane
    assert roster.find("somebody") is None
    assert len(roster.people) == 2
    # A section of Canvas is no group: its people hand in work of their own.
    groups = {"own": ["jane", "ann"], "groups": ["j@x.org", "a@x.org"]}
    assert [p.key for p in roster.members("Red")] == groups.get(kind, [])
    if kind == "canvas":
        assert [p.key for p in roster.people] == ["jdoe", "alee"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no column"), ("a,b\n1,2\n", "no column"), ("student\nx\nx\n", "twice"), (None, "CSV")],
)
def test_a_bad_roster_is_said(tmp_path, text, words):
    """A roster without a student column, with one twice, or that is no text says so."""
    file = tmp_path / "roster.csv"
    file.write_bytes(b"\xff\xfe\x00" if text is None else text.encode())

    with pytest.raises(UsageError, match=words):
        read_roster(file)


def test_a_word_that_fits_two_means_none(tmp_path):
    """Two students of the same name are not confused."""
    file = tmp_path / "roster.csv"
    file.write_text("student,name\na,Jo Li\nb,Jo Li\n")
    roster = read_roster(Path(file))

    assert roster.find("Jo Li") is None
    assert roster.find("b").key == "b"
