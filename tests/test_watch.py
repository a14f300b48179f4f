"""`lab watch`: grades on save, from a warm session, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from grader.exercise import find
from grader.process import Output, wait_until
from grader.record import last
from grader.vigil import Vigil, in_order, snapshot

START = "from celery import Celery\napp = Celery('greeting')\n"
TASK = START + "@app.task(name='greeting.greet')\ndef greet(name):\n    "
RIGHT = TASK + "return f'Hello, {name}!'\n"
WRONG = TASK + "return 'Hello, nobody!'\n"
HANGS = TASK + "import threading; threading.Event().wait()\n"
BREAKS = START + "def greet(:\n"


class Watch:
    """A `lab watch` that runs beside the test."""

    def __init__(self, copy, *arguments):
        command = [sys.executable, "-m", "grader", "watch", *arguments]
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            command, cwd=copy.root, env=copy.env, stdout=writing, stderr=writing
        )
        os.close(writing)
        self.output, self.file, self.read = Output(reading), copy.starter / "greeting.py", 0

    def until(self, *words):
        """Wait until all of the words were printed after what was waited for before."""

        def printed():
            text = self.output.text[self.read :]
            return all(word in text for word in words)

        wait_until(printed, 60, lambda: AssertionError(self.output.text[self.read :]))
        text = self.output.text[self.read :]
        self.read = len(self.output.text)
        return text

    def save(self, text):
        """Save the way editors do: a new file in the place of the old one."""
        draft = self.file.with_name("greeting.py~")
        draft.write_text(text)
        draft.replace(self.file)

    def stop(self):
        """Press Ctrl-C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


def nothing_left(copy):
    """No file is left, and no process once those that were killed have died."""
    wait_until(
        lambda: not copy.left_behind(), 10, lambda: AssertionError("\n".join(copy.left_behind()))
    )


@pytest.fixture
def watching(copy):
    """Start `lab watch 9_9` on a copy whose starter is restored afterwards."""
    pytest.importorskip("watchfiles")
    before, started = (copy.starter / "greeting.py").read_text(), []

    def start(text, *arguments):
        (copy.starter / "greeting.py").write_text(text)
        started.append(Watch(copy, "9_9", *arguments))
        return started[-1]

    yield start
    for watch in started:
        if watch.process.poll() is None:
            watch.process.kill()
            watch.process.wait(10)
    (copy.starter / "greeting.py").write_text(before)


def test_each_save_is_graded(watching, copy):
    """It grades at once and after each save; a save of the same text grades nothing."""
    watch = watching(WRONG)
    assert "FAIL" in watch.until("Waiting for the next save")

    watch.save(RIGHT)
    assert "100/100" in watch.until("Waiting for the next save")
    watch.save(RIGHT)
    watch.save(BREAKS)
    said = watch.until("Waiting for the next save")

    assert "SyntaxError" in said and said.count("grading 9_9") == 1
    assert "\x1b" not in watch.output.text and "Traceback" not in watch.output.text
    assert watch.stop() == 130
    nothing_left(copy)
    assert (copy.root / ".lab" / "student" / "last" / "9_9").exists()


def test_a_submission_that_hangs_holds_up_nobody(watching, copy):
    """A save while it grades ends that grading: nothing more is heard of it."""
    watch = watching(HANGS)
    watch.until("grading 9_9")
    wait_until(lambda: copy.processes(), 30, lambda: AssertionError("nothing came up"))

    watch.save(RIGHT)

    said = watch.until("grading 9_9", "Waiting for the next save")
    assert "100/100" in said and "FAIL" not in said and "unknown" not in said
    watch.save(HANGS)
    watch.until("grading 9_9")
    assert watch.stop() == 130
    nothing_left(copy)


def test_many_saves_in_a_row_end_with_the_last(watching, copy):
    """However fast the saves come, what lies there in the end is what counts."""
    watch = watching(WRONG)
    watch.until("grading 9_9")
    for n in range(6):
        watch.save(WRONG + f"# {n}\n")
    watch.save(RIGHT)

    wait_until(lambda: "100/100" in watch.output.text, 60, lambda: AssertionError("no end"))

    assert watch.stop() == 130
    nothing_left(copy)


def test_an_empty_folder_is_told_and_waited_for(watching, copy):
    """Where the file is gone the sentence says so, and the next save is graded."""
    watch = watching(RIGHT)
    watch.until("100/100")

    watch.file.unlink()
    watch.until("greeting.py", "Waiting for the next save")
    watch.save(RIGHT)

    watch.until("100/100")
    assert watch.stop() == 130


@pytest.mark.parametrize(
    ("arguments", "words"), [(["9_8"], "9_9"), (["9_9", "--broker", "rabbitmq"], "rabbitmq")]
)
def test_a_wrong_call_is_told(copy, arguments, words):
    """An unknown exercise and a broker that it does not run on are exit status 2."""
    run = copy.lab("watch", *arguments)

    assert run.returncode == 2 and words in run.stderr and "Traceback" not in run.stderr


# Without a lab


def test_what_failed_last_time_comes_first(student, keep):
    """The criteria that failed, in their order, then the rest in theirs."""
    keep("powers", "overflow")
    exercise = find("1_2")

    found = in_order(exercise, last("1_2"))

    assert set(found[:2]) == {"powers", "overflow"} and set(found) == set(exercise.checks)
    assert [id for id in exercise.checks if id in found[2:]] == found[2:]
    assert in_order(exercise, None) == list(exercise.checks)


def test_only_work_is_looked_at(tmp_path):
    """Editors' drafts, the handout and the checks begin no grading."""
    for name in ("a.py", "README.md", "test_a.py", ".a.py.swp", "a.py~", "#a.py#", "hints.toml"):
        (tmp_path / name).write_text("x")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")

    exercise = SimpleNamespace(folder=tmp_path)

    assert set(snapshot(exercise)) == {"a.py"}
    assert snapshot(SimpleNamespace(folder=tmp_path / "gone")) == {}


def test_at_most_one_grading_counts(tmp_path):
    """A change ends what is under way; the end of a grading is told once."""
    (tmp_path / "a.py").write_text("1")
    made, told, waited, closed = [], [], [], []

    def start():
        made.append(SimpleNamespace(done=False, ended=0, await_end=waited.append, begin=int))
        made[-1].end = lambda grading=made[-1]: setattr(grading, "ended", 1)
        return made[-1]

    vigil = Vigil(SimpleNamespace(folder=tmp_path), start, told.append)
    vigil.look()
    vigil.look()
    (tmp_path / "a.py").write_text("2")
    vigil.look()
    made[1].done = True
    vigil.look()
    vigil.look()

    assert len(made) == 2 and [g.ended for g in made] == [1, 0] and told == [made[1]]
    vigil.close(SimpleNamespace(close=lambda: closed.append(1)))
    assert len(waited) == 1 and closed == [1]


def test_an_interrupt_at_the_start_loses_no_grading(tmp_path):
    """Ctrl-C in the very moment in which a grading begins: it is known, and ended."""
    (tmp_path / "a.py").write_text("1")
    ended, waited = [], []

    def begin():
        raise KeyboardInterrupt

    grading = SimpleNamespace(
        done=False, begin=begin, end=lambda: ended.append(1), await_end=waited.append
    )
    vigil = Vigil(SimpleNamespace(folder=tmp_path), lambda: grading, ended.append)

    with pytest.raises(KeyboardInterrupt):
        vigil.look()
    vigil.close(SimpleNamespace(close=lambda: None))

    assert ended and waited
