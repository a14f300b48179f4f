"""A farm: `lab class --farm` sends, `lab farm-worker` grades; a machine that dies loses nothing."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import psutil
import pytest

from grader.classroom import farm
from grader.classroom.farm import MOST_DELIVERIES, Machine, Settings
from grader.classroom.job import Outcome
from grader.classroom.prints import checks_print
from grader.classroom.store import Shelf, Store
from grader.classroom.work import Piece, Work
from grader.errors import BadSubmission, LabFault, UsageError
from grader.exercise import find
from grader.process import wait_until

RIGHT = """from celery import Celery
app = Celery('greeting')
@app.task(name='greeting.greet')
def greet(name):
    return f'Hello, {name}!'
"""
# It is still starting when its machine is killed.
SLOW = "import time\ntime.sleep(4)\n" + RIGHT
CALL = "ab" * 16
JOB = "cd" * 16


# --- live -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request, copy):
    """A broker's name and URL, from `lab up`."""
    flags = ["--rabbitmq"] if request.param == "rabbitmq" else []
    up = copy.lab("up", *flags)
    if request.param == "rabbitmq" and up.returncode == 3 and not os.environ.get("LAB_REQUIRE"):
        pytest.skip(up.stderr)
    assert up.returncode == 0, up.stderr
    shown = copy.lab("env", "--broker", request.param).stdout
    yield request.param, re.search(r"CELERY_BROKER_URL=(\S+)", shown)[1].strip("'")
    assert copy.lab("down").returncode == 0


@pytest.fixture
def class_of_three(tmp_path):
    """The slow one is sent first."""
    texts = {"ann": SLOW, "bob": RIGHT.replace("Hello", "Bye"), "çé": RIGHT}
    for name, text in texts.items():
        (tmp_path / "works" / name).mkdir(parents=True)
        (tmp_path / "works" / name / "greeting.py").write_text(text)
    return tmp_path / "works"


@contextmanager
def machine(copy, url, store):
    """A farm's machine with one process; a process group of its own, to be killed whole."""
    command = [sys.executable, "-m", "grader", "farm-worker", url, "--store", str(store)]
    out, env = subprocess.PIPE, copy.env
    process = subprocess.Popen(
        [*command, "--jobs", "1"], cwd=copy.root, env=env, stdout=out, stderr=out, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def begun(store):
    """Return the jobs that a machine has begun and that are not done."""
    done = {path.name for path in store.glob("*/results/*")}
    return {path.name for path in store.glob("*/started/*")} - done


def grading(machine):
    """Return the processes of a machine's pool that have servers or submissions running."""
    found = []
    with suppress(psutil.Error):
        found = [child for child in psutil.Process(machine.pid).children() if child.children()]
    return found


def rows(book):
    """Return (student, score, is it the lab's fault) of every attempt in a book."""
    with sqlite3.connect(book) as raw:
        found = raw.execute("SELECT student, score, lab_fault FROM attempts ORDER BY student")
        return found.fetchall()


def test_a_machine_that_dies_in_mid_grade_loses_nothing(copy, broker, class_of_three, tmp_path):
    """With one of two machines killed, every work is in the book, once, and nothing is left."""
    name, url = broker
    store, book = tmp_path / "store", tmp_path / "grades.sqlite"
    arguments = ("class", class_of_three, "--out", book, "--farm", url, "--store", store)
    before = copy.left_behind()  # the broker
    with machine(copy, url, store) as first:
        run = copy.start(*arguments, "--broker", "redis")
        wait_until(lambda: begun(store), 60, lambda: AssertionError("nothing has begun"))
        with machine(copy, url, store) as second:
            # One that dies before it has its folder leaves it to a sweep of a minute later.
            wait_until(lambda: grading(first), 60, lambda: AssertionError("nothing is graded"))
            if name == "rabbitmq":
                os.killpg(first.pid, signal.SIGKILL)
                first.wait()
            else:  # Redis would wait for the time limit: there a process of the pool dies
                grading(first)[0].kill()
            said, errors = run.communicate(timeout=120)
        assert second.returncode == 0

    assert run.returncode == 0, errors
    assert rows(book) == [("ann", 100, 0), ("bob", 0, 0), ("çé", 100, 0)]
    assert "Graded 3, unchanged 0" in said
    assert list(store.rglob("*")) == []
    left = [line for line in copy.left_behind() if line not in before and "/up-" not in line]
    assert left == []


def test_what_was_sent_is_found_by_the_next_call(copy, broker, class_of_three, tmp_path):
    """After SIGKILL of the class its jobs go on, and the next call books what they came to."""
    _, url = broker
    store, book = tmp_path / "store", tmp_path / "grades.sqlite"
    arguments = ("class", class_of_three, "--out", book, "--farm", url, "--store", store)
    run = copy.start(*arguments, "--broker", "redis")
    wait_until(
        lambda: len(list(store.glob("*/works/*"))) == 3, 60, lambda: AssertionError("not sent")
    )
    run.kill()
    _, said = run.communicate(timeout=30)
    assert "lab farm-worker" in said  # nobody was there yet
    with machine(copy, url, store):
        # Not of all three: the last one may have been laid in the store and not sent yet.
        wait_until(lambda: list(store.glob("*/results/*")), 90, lambda: AssertionError("no"))
        done = copy.lab(*arguments, "--broker", "redis")

    assert done.returncode == 0, done.stderr
    assert rows(book) == [("ann", 100, 0), ("bob", 0, 0), ("çé", 100, 0)]
    assert list(store.rglob("*")) == []


# --- one machine, without a broker ----------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path):
    """An open shelf in a store in a folder."""
    shelf = Store(str(tmp_path / "store")).call(CALL)
    shelf.open()
    return shelf


@pytest.fixture
def graded(monkeypatch):
    """Have gradings done at once; the list of what was graded."""
    found = []

    def judge(exercise, lay, shown, seed, *_):
        found.append(lay(None).path.name)
        return outcome(seed)

    monkeypatch.setattr(farm, "judge", judge)
    monkeypatch.setattr(farm.Machine, "_stack", lambda self: Stub())
    return found


class Stub:
    """Stands for a machine's brokers."""

    class home:
        folder = None


def outcome(seed=1):
    """Return an outcome with something in every field."""
    now = datetime.now(UTC)
    return Outcome(now, 1.5, seed, "graded", 8.0, 0.0, False, False, {"a@redis": "passed"},
                   {"lab": "1"}, b"\0evidence")  # fmt: skip


def work(folder, text=RIGHT, student="ann"):
    """Return a work in a new folder."""
    folder.mkdir(parents=True)
    (folder / "greeting.py").write_text(text)
    return Work(student, (Piece(folder),), "1_2")


def message(name, **changes):
    """Return a message about the work of that name on the shelf."""
    plain = {
        "call": CALL, "job": JOB, "exercise": "1_2", "work": name, "shown": "ann", "seed": 7,
        "broker": "redis", "checks": checks_print(find("1_2")),
    }  # fmt: skip
    return {**plain, **changes}


@pytest.fixture
def one(shelf, tmp_path, monkeypatch, graded):
    """A machine, and the name of a work that lies on the shelf for it."""
    Stub.home.folder = tmp_path / "home"
    name = shelf.put(work(tmp_path / "ann"), tmp_path / "parcel")
    return Machine(Settings(str(tmp_path / "store"))), name


def test_a_job_is_done_once_however_often_it_is_delivered(shelf, one, graded):
    """A second delivery of a job whose result is there does nothing."""
    machine, name = one
    machine.carry_out(message(name))
    machine.carry_out(message(name))

    assert len(graded) == 1
    assert shelf.take(JOB) == Outcome.unpacked(shelf.take(JOB).packed())
    assert shelf.results() == [JOB]


def test_nobody_waits_for_a_closed_class(shelf, one, graded):
    """A message of a class that is done is dropped."""
    machine, name = one
    shelf.clear()
    machine.carry_out(message(name))

    assert graded == []
    assert shelf.results() == []


def test_a_job_that_kills_its_machine_is_given_up(shelf, one, graded):
    """After so many deliveries that never ended, the job is the lab's failure and says so."""
    machine, name = one
    for _ in range(MOST_DELIVERIES):
        shelf.begin(JOB)
    machine.carry_out(message(name))

    assert graded == []
    assert shelf.take(JOB).lab_fault


@pytest.mark.parametrize(
    "changes",
    [
        {"checks": "others"},
        {"exercise": "9_8"},
        {"work": "ef" * 32 + ".tar"},
    ],
)
def test_what_a_machine_cannot_grade_is_the_labs_failure(one, shelf, changes, graded):
    """Other checks, an exercise that it does not have, a work that is not in the store."""
    machine, name = one
    machine.carry_out(message(name, **changes))

    assert graded == []
    assert shelf.take(JOB).lab_fault
    assert shelf.take(JOB).score == 0


def test_a_store_that_fails_for_a_moment_costs_no_second_grading(one, shelf, graded, monkeypatch):
    """The result is left once the store works again; the work is graded once."""
    finish, failures = Shelf.finish, [LabFault("store_failed", url="x", error="away")]

    def flaky(self, job, outcome):
        if failures:
            raise failures.pop()
        finish(self, job, outcome)

    monkeypatch.setattr(Shelf, "finish", flaky)
    machine, name = one
    machine.carry_out(message(name))

    assert len(graded) == 1
    assert shelf.results() == [JOB]


def test_an_error_of_the_grader_is_answered_too(one, shelf, monkeypatch):
    """Whatever goes wrong on the machine, the class gets an answer that is no zero."""

    def judge(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(farm, "judge", judge)
    machine, name = one
    machine.carry_out(message(name))

    assert shelf.take(JOB).lab_fault


# --- the store ------------------------------------------------------------------------------------


def test_a_work_comes_back_as_it_was(shelf, tmp_path):
    """A folder and an archive are, after the store, what they were; the same work has one name."""
    there = work(tmp_path / "ann")
    again = work(tmp_path / "again")
    name = shelf.put(there, tmp_path / "p1")
    back = shelf.fetch(name, tmp_path / "back")
    archive = Work("bob", (Piece(back.path),), "1_2")
    second = shelf.put(archive, tmp_path / "p3")

    assert shelf.put(again, tmp_path / "p2") == name
    assert second == name
    assert back.copy(tmp_path / "copy", find("1_2")).joinpath("greeting.py").read_text() == RIGHT


def test_a_work_that_was_changed_in_the_store_is_refused(shelf, tmp_path):
    """What lies under a name is held against the hash in the name."""
    name = shelf.put(work(tmp_path / "ann"), tmp_path / "p")
    (tmp_path / "store" / CALL / "works" / name).write_bytes(b"other")

    with pytest.raises(LabFault, match="does not have the work"):
        shelf.fetch(name, tmp_path / "back")


def test_a_result_that_is_none_is_the_stores_failure(shelf, tmp_path):
    """Half a file, or something else in a result's place, is said in a sentence."""
    shelf.store.write(f"{CALL}/results/{JOB}", b"no result")

    with pytest.raises(LabFault, match="store"):
        shelf.take(JOB)


def test_work_that_is_gone_never_gets_to_the_farm(shelf, tmp_path):
    """A folder that was removed meanwhile is its student's failure, said as on one machine."""
    gone = Work("ann", (Piece(tmp_path / "gone"),), "1_2")

    with pytest.raises(BadSubmission):
        shelf.put(gone, tmp_path / "p")


@pytest.mark.parametrize("url", ["pyproject.toml", "nonsense://x", "/proc/none/x"])
def test_a_store_that_cannot_be_is_refused(url, tmp_path, monkeypatch):
    """A file, an unknown kind, a place where nothing can be made: a sentence, not a traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()

    with pytest.raises(UsageError, match=r"store|package"):
        Store(url)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["farm-worker", "redis://localhost:1/0"], 2, "--store"),
        (["farm-worker", "redis://:secret@localhost:1/0", "--store", "s"], 3, "Nobody answers"),
        (["farm-worker", "redis://localhost:1/0", "--store", "pyproject.toml"], 2, "store"),
        (["class", ".", "--out", "b.sqlite", "--farm", "redis://localhost:1/0"], 2, "--store"),
    ],
)
def test_a_wrong_call_says_what_is_wanted(copy, arguments, status, words):
    """A missing store, a broker that is not there: a sentence without a traceback or a password."""
    run = copy.lab(*arguments)

    assert run.returncode == status, run.stdout + run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert "secret" not in run.stderr
    (copy.root / "b.sqlite").unlink(missing_ok=True)
