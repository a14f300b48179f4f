"""`lab reset`: the starter is there again, and nothing of the work is ever lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grader import starter
from grader.errors import LabFault, UsageError
from grader.exercise import EXERCISES, ROOT, load
from grader.starter import reset

NOW = datetime(2026, 11, 22, 10, 30, 15, tzinfo=UTC)
WORK = "print('my work')\n"


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """A copy of exercise 1_2 with its starter's copy, and a place for old work."""
    folder = tmp_path / "exercises" / "1_2"
    shutil.copytree(EXERCISES / "1_2", folder, ignore=shutil.ignore_patterns("__pycache__"))
    copies = tmp_path / "exercises" / ".starters"
    shutil.copytree(EXERCISES / ".starters" / "1_2", copies / "1_2")
    shutil.copytree(copies / "1_2", folder, dirs_exist_ok=True)
    monkeypatch.setattr(starter, "EXERCISES", folder.parent)
    monkeypatch.setattr("grader.exercise.EXERCISES", folder.parent)
    monkeypatch.setattr(starter, "COPIES", copies)
    monkeypatch.setattr(starter, "ASIDE", tmp_path / "aside")
    return load(folder)


def again(exercise, now=NOW):
    """Reset the exercise and return (what was done, the folder that was told)."""
    told: list[Path] = []
    done = reset(exercise, now, told.append)
    assert told == ([done.aside] if done.aside else [])
    return done


def everything(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_starter_is_back_and_the_work_aside(mine):
    """Changed and new files are kept aside whole; the folder is what it was."""
    before = everything(mine.folder)
    (mine.folder / "calculator.py").write_text(WORK)
    (mine.folder / "helpers").mkdir()
    (mine.folder / "helpers" / "own.py").write_text("x = 1\n")

    done = again(mine)

    assert everything(mine.folder) == before
    assert done.aside.name == "1_2-2026-11-22-103015"
    assert (done.aside / "calculator.py").read_text() == WORK
    assert (done.aside / "helpers" / "own.py").read_text() == "x = 1\n"
    assert done.restored == ("calculator.py",)
    assert not (mine.folder / "helpers").exists()


def test_a_deleted_file_is_back(mine):
    """A file of the starter that was deleted is restored; there is nothing to keep aside."""
    (mine.folder / "web.py").unlink()

    done = again(mine)

    assert (done.aside, done.restored) == (None, ("web.py",))
    assert (mine.folder / "web.py").read_bytes() == (starter.copy_of("1_2") / "web.py").read_bytes()


def test_an_untouched_starter_is_left_alone(mine):
    """Where nothing was changed nothing is written."""
    assert again(mine) == starter.Reset(None, ())
    assert not starter.ASIDE.exists()


def test_the_handout_the_checks_and_what_tools_leave_stay(mine):
    """Only work is reset."""
    (mine.folder / "README.md").write_text("notes of my own")
    (mine.folder / "__pycache__").mkdir()
    (mine.folder / "__pycache__" / "x.pyc").write_text("x")

    assert again(mine) == starter.Reset(None, ())
    assert (mine.folder / "README.md").read_text() == "notes of my own"
    assert (mine.folder / "__pycache__" / "x.pyc").exists()


def test_two_resets_in_one_second_keep_both(mine):
    """The second reset of the same second has a folder of its own."""
    folders = []
    for text in ("one", "two", "three"):
        (mine.folder / "calculator.py").write_text(text)
        folders.append(again(mine).aside)

    assert [(f / "calculator.py").read_text() for f in folders] == ["one", "two", "three"]
    assert sorted(starter.ASIDE.iterdir()) == sorted(folders)


def test_without_a_copy_nothing_is_touched(mine):
    """Where the starter is not known the work stays, and the sentence says what is missing."""
    (mine.folder / "calculator.py").write_text(WORK)
    shutil.rmtree(starter.copy_of("1_2"))

    with pytest.raises(UsageError, match="is missing"):
        again(mine)
    assert (mine.folder / "calculator.py").read_text() == WORK


@pytest.mark.parametrize("call", ["copy2", "copyfile"])
def test_a_full_disk_loses_nothing(mine, monkeypatch, call):
    """Whether the work can't be copied or the starter not be written: every file is somewhere."""
    (mine.folder / "calculator.py").write_text(WORK)
    (mine.folder / "web.py").write_text("web = 1\n")
    usual = getattr(shutil, call)

    def full(source, target, **more):
        if call == "copyfile" and starter.ASIDE in Path(target).parents:
            return usual(source, target, **more)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(starter.shutil, call, full)
    with pytest.raises(LabFault, match=r"No space left.*Nothing of your work is lost"):
        again(mine)

    assert (mine.folder / "calculator.py").read_text() == WORK
    assert (mine.folder / "web.py").read_text() == "web = 1\n"
    assert not [p for p in mine.folder.iterdir() if p.name.startswith(".")]
    aside = list(starter.ASIDE.iterdir())
    assert [f.name[0] for f in aside] == ([] if call == "copy2" else ["1"])


@pytest.mark.parametrize("call", ["copy2", "copyfile"])
@pytest.mark.parametrize("after", [0, 1])
def test_an_interrupt_loses_nothing(mine, monkeypatch, call, after):
    """Ctrl-C at any write leaves each file either in place or aside."""
    texts = {"calculator.py": WORK, "own.py": "own = 1\n", "web.py": "web = 1\n"}
    for name, text in texts.items():
        (mine.folder / name).write_text(text)
    usual, calls = getattr(shutil, call), []

    def interrupted(*args, **more):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return usual(*args, **more)

    monkeypatch.setattr(starter.shutil, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(mine)

    places = [mine.folder, *starter.ASIDE.iterdir()]
    for name, text in texts.items():
        assert text in [(p / name).read_text() for p in places if (p / name).exists()]


def test_work_that_is_saved_meanwhile_is_not_replaced(mine, monkeypatch):
    """A file that the editor writes between the copy and the restoring stays as it is."""
    file = mine.folder / "calculator.py"
    file.write_text(WORK)

    with pytest.raises(LabFault, match="changed just now"):
        reset(mine, NOW, lambda aside: file.write_text("newer"))
    assert file.read_text() == "newer"


def test_links_are_kept_as_links(mine, tmp_path):
    """A file replaced by a link to elsewhere is restored; what it leads to is not touched."""
    (tmp_path / "elsewhere.py").write_text(WORK)
    file = mine.folder / "calculator.py"
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere.py")

    done = again(mine)

    assert not file.is_symlink() and (tmp_path / "elsewhere.py").read_text() == WORK
    assert os.readlink(done.aside / "calculator.py") == str(tmp_path / "elsewhere.py")


def test_a_place_that_cannot_be_written_is_told(mine, monkeypatch, tmp_path):
    """Where old work can't be kept, the reset is refused and nothing is changed."""
    (tmp_path / "aside").write_text("a file")
    (mine.folder / "calculator.py").write_text(WORK)

    with pytest.raises(LabFault, match="could not be finished"):
        again(mine)
    assert (mine.folder / "calculator.py").read_text() == WORK


def test_copies_are_written_by_lab_tables(mine):
    """A starter that its author changed is stale until its copy is made anew."""
    assert starter.stale() == []
    (mine.folder / "calculator.py").write_text("new starter\n")
    (mine.folder / "more.py").write_text("more\n")
    (mine.folder / "web.py").unlink()

    assert starter.stale() == ["1_2"]
    assert starter.refresh() == [starter.copy_of("1_2")]
    assert set(starter.work(starter.copy_of("1_2"))) == {"calculator.py", "more.py"}
    assert starter.stale() == []


def test_the_copies_in_the_repository_are_fresh():
    """Each exercise's copy is its starter, unless somebody is at work in exercises/ just now."""
    command = ["git", "status", "--porcelain", "exercises"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode or run.stdout.strip():
        pytest.skip("exercises/ is being worked on")

    assert starter.stale() == []


def test_the_command_tells_where_the_work_is(copy):
    """`lab reset` prints the folder, restores, and says so when there is nothing to do."""
    copy.lab("tables")
    file = copy.starter / "greeting.py"
    before = file.read_text()
    file.write_text(WORK)

    run = copy.lab("reset", "9_9")

    assert run.returncode == 0, run.stderr
    kept = Path(run.stdout.splitlines()[0].rpartition(" ")[2])
    assert (kept / "greeting.py").read_text() == WORK
    assert file.read_text() == before
    assert "nothing was changed" in copy.lab("reset", "9_9").stdout
    assert copy.lab("reset", "9_8").returncode == 2
    shutil.rmtree(copy.root / ".lab")
