"""`lab grade` as its users meet it: formats, exit statuses, and every kind of bad input."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import psutil
import pytest

from grader.process import wait_until

START = "from celery import Celery\napp = Celery('greeting')\n"
TASK = "@app.task(name='greeting.greet')\ndef greet(name):\n    "
RIGHT = START + TASK + "return f'Hello, {name}!'\n"


def grade(copy, submission, *more):
    """Grade a submission as JSON and return (exit status, document, standard error)."""
    run = copy.lab("grade", "9_9", "--submission", submission, "--format", "json", *more)
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, json.loads(run.stdout or "{}"), run.stderr


def test_the_solution_gets_every_point(copy):
    """A full score is exit status 0 and a document that says so."""
    status, document, _ = grade(copy, copy.solution, "--seed", "5")

    assert status == 0
    assert (document["score"], document["max_score"], document["seed"]) == (100, 100, 5)
    assert document["status"] == "graded"


def test_the_starter_is_graded_in_place(copy):
    """`lab grade 9_9` grades exercises/9_9 itself; missing points are exit status 1."""
    run = copy.lab("grade", "9_9")

    assert run.returncode == 1
    assert "NotImplementedError" in run.stdout
    assert "FAIL" in run.stderr


def test_a_folder_of_exercises_is_graded_whole(copy):
    """`lab grade solutions` grades each exercise that the folder holds."""
    run = copy.lab("grade", "solutions", "--format", "json")

    assert run.returncode == 0
    assert [row["exercise"] for row in json.loads(run.stdout)["results"]] == ["9_9"]


def test_reports_go_to_a_file(copy, tmp_path):
    """--out writes the report and prints only its path and the progress."""
    out = tmp_path / "über uns.xml"

    run = copy.lab("grade", "solutions", "--format", "junit", "--out", out)

    assert (run.returncode, run.stdout) == (0, "")
    assert ET.parse(out).getroot().tag == "testsuites"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["grade", "9_8"], "9_9"),
        (["grade", "9_9", "--submission", "nowhere"], "There is nothing at"),
        (["grade", "9_9", "--submission", "pyproject.toml"], "is a file"),
        (["grade", "9_9", "--broker", "rabbitmq"], "does not run on rabbitmq"),
        (["grade", "9_9", "--format", "yaml"], "yaml"),
        (["grade", "9_9", "--out", "no/such/folder/x.txt"], "There is no folder"),
        (["grade", "grader"], "no subfolder named after an exercise"),
        (["grade", "/"], "no subfolder named after an exercise"),
        (["grade", "../nowhere"], "There is no folder ../nowhere"),
        (["grade", "9_9", "--seed", "-1"], "--seed"),
        (["override", "g.sqlite", "ann", "9_9", "5"], "--reason"),
        (["grad", "9_9"], "Did you mean: grade"),
        (["grade"], "Missing argument"),
    ],
)
def test_a_wrong_call_is_exit_status_2(copy, arguments, words):
    """A wrong call says what was found and what to type, with exit status 2 and no traceback."""
    run = copy.lab(*arguments)

    assert run.returncode == 2, run.stdout + run.stderr
    assert words in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("absolute", [True, False])
def test_a_folder_of_works_may_lie_anywhere(copy, tmp_path, absolute):
    """Its absolute path and one with .. mean the same; what is empty spoils no other result."""
    works = tmp_path / "my wörk 作业"
    shutil.copytree(copy.solution, works / "9_9")
    path = works if absolute else os.path.relpath(works, copy.root)

    run = copy.lab("grade", path, "--format", "json")

    assert run.returncode == 0, run.stderr
    (document,) = json.loads(run.stdout)["results"]
    assert document["score"] == 100


@pytest.mark.parametrize("word", ["exercises/9_9", "9_9/"])
def test_an_exercises_own_folder_means_its_id(copy, word):
    """`lab grade exercises/9_9` is what `pytest exercises/9_9` is."""
    run = copy.lab("grade", word, "--format", "json")

    assert json.loads(run.stdout)["exercise"] == "9_9", run.stderr


@pytest.mark.parametrize(
    ("variable", "url"), [("LAB_REDIS_URL", "foo"), ("LAB_RABBITMQ_URL", "nonsense")]
)
def test_a_broken_url_is_said_once(copy, monkeypatch, variable, url):
    """A URL of no server is a wrong call, for doctor a fault to mend; nothing is graded."""
    monkeypatch.setenv(variable, url)

    run, doctor = copy.lab("grade", "9_9"), copy.lab("doctor")

    assert (run.returncode, run.stderr.count(f"`{url}`")) == (2, 1), run.stderr
    assert doctor.returncode != 0
    assert f"unset {variable}" in doctor.stdout


def test_an_empty_folder_is_a_wrong_call(copy, tmp_path):
    """An empty submission folder is told with the file that was wanted."""
    (tmp_path / "empty").mkdir()

    status, document, _ = grade(copy, tmp_path / "empty")

    assert status == 2
    assert document["status"] == "ungradable"
    assert "greeting.py" in document["note"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (START + "def greet(:\n", "SyntaxError"),
        ("import no_such_module\n", "no_such_module"),
        (RIGHT.replace("app", "celery_app"), "app"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("import os\nos._exit(0)\n", "ended by itself"),
        (START + "app.conf.broker_transport_options = {'global_keyprefix': 'x'}\n1/0\n", "Zero"),
    ],
)
def test_what_never_starts_is_ungradable_and_the_students(copy, write, text, words):
    """A submission that can't be started gets no point, exit status 1, and the reason in words."""
    status, document, _ = grade(copy, write(text))

    assert status == 1
    assert document["status"] == "ungradable"
    assert document["score"] == 0
    assert words in document["note"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os._exit(1)", "WorkerLostError"),
        ("return 'Hello!'", "Hello!"),
        ("return object()", "EncodeError"),
        ("raise SystemExit", "WorkerLostError"),
    ],
)
def test_a_task_that_misbehaves_fails_its_criterion(copy, write, body, words):
    """A task's own failure is `failed` with what was seen, never the lab's fault."""
    status, document, _ = grade(copy, write(START + TASK + body + "\n"))

    assert status == 1
    assert document["criteria"][0]["verdict"] == "failed"
    assert words in document["criteria"][0]["observed"]


def test_a_task_that_never_returns_is_cut_off(copy, write):
    """A task that hangs is told as no answer in time."""
    body = "import threading; threading.Event().wait()"

    status, document, _ = grade(copy, write(START + TASK + body + "\n"))

    assert status == 1
    assert "no answer" in document["criteria"][0]["observed"]


def test_a_hundred_megabytes_of_output_do_no_harm(copy, write):
    """A task that prints 100 MB is graded by its result."""
    body = "[print('x' * 1_000_000) for _ in range(100)]; return f'Hello, {name}!'"

    status, document, _ = grade(copy, write(START + TASK + body + "\n"))

    assert (status, document["score"]) == (0, 100)


def test_paths_with_blanks_and_other_letters(copy, write):
    """A submission under a path with blanks and non-ASCII letters is graded like any other."""
    status, document, _ = grade(copy, write(RIGHT, "作业 von Jürgen (final)"))

    assert (status, document["score"]) == (0, 100)


def test_an_archive_is_a_submission(copy, write):
    """A zip file with one folder inside is graded like the folder."""
    folder = write(RIGHT)
    archive = shutil.make_archive(str(folder.parent / "work"), "zip", folder.parent, "work")

    status, document, _ = grade(copy, archive)

    assert (status, document["score"]) == (0, 100)


def test_no_space_is_the_labs_fault(copy, tmp_path):
    """Too little room in the temporary folder is exit status 3 with the folder and what to do."""
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap for a small temporary folder")
    small = tmp_path / "small"
    small.mkdir()
    box = ["bwrap", "--dev-bind", "/", "/", "--size", str(10 * 2**20), "--tmpfs", str(small)]
    command = [*box, sys.executable, "-m", "grader", "grade", "9_9"]
    env = {**copy.env, "TMPDIR": str(small)}

    run = subprocess.run(command, cwd=copy.root, env=env, capture_output=True, text=True)

    assert run.returncode == 3
    assert str(small) in run.stderr
    assert "Traceback" not in run.stderr


def test_two_runs_at_once_do_not_meet(copy):
    """Two graders at the same time both give full points."""
    runs = [copy.start("grade", "solutions", "--format", "json") for _ in range(2)]

    documents = [json.loads(run.communicate(timeout=120)[0]) for run in runs]

    assert [d["results"][0]["score"] for d in documents] == [100, 100]


def worker_of(copy):
    """Return a process of a run that is under way, None if there is none yet."""
    for process in copy.processes():
        with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
            if "inside/worker.py" in " ".join(process.cmdline()):
                return process
    return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(copy, write, number):
    """Ctrl-C, SIGTERM and a closed terminal end the run and everything that it started."""
    hang = write(START + TASK + "import threading; threading.Event().wait()\n")
    run = copy.start("grade", "9_9", "--submission", hang)
    wait_until(lambda: worker_of(copy), 30, lambda: AssertionError("no worker came up"))

    run.send_signal(number)
    _, said = run.communicate(timeout=30)

    assert run.returncode == 130
    assert "stopped" in said
    assert "Traceback" not in said
    assert copy.left_behind() == []


def test_the_next_run_sweeps_what_a_killed_one_left(copy, write):
    """After SIGKILL of the grader the next run ends its processes and removes its files."""
    hang = write(START + TASK + "import threading; threading.Event().wait()\n")
    run = copy.start("grade", "9_9", "--submission", hang)
    worker = wait_until(lambda: worker_of(copy), 30, lambda: AssertionError("no worker came up"))
    run.kill()
    run.communicate(timeout=30)

    assert copy.lab("grade", "solutions").returncode == 0

    psutil.wait_procs([worker], timeout=10)
    assert copy.left_behind() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_can_grade(copy, tmp_path_factory):
    """An ordinary user gets the same score as root."""
    temp = tmp_path_factory.mktemp("nobody")
    os.chown(temp, 65534, 65534)
    env = {**copy.env, "TMPDIR": str(temp), "HOME": str(temp)}
    command = [sys.executable, "-m", "grader", "grade", "solutions", "--format", "json"]
    try:
        subprocess.run([sys.executable, "-c", ""], user=65534, group=65534, check=True)
        os.stat(copy.root)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("this interpreter is out of reach for an ordinary user")

    run = subprocess.run(
        command, cwd="/", env=env, user=65534, group=65534, capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr
