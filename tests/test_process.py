"""grader/process.py: children get a session of their own, are heard in short and ended whole."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from grader import process
from grader.errors import LabFault
from grader.home import daemons
from grader.process import LOG_LIMIT, Output, identity, session, spawn, wait_until

IDLE = "import signal\nprint('born', flush=True)\nsignal.pause()"
PLAIN = {"PATH": os.defpath}


def late(what: str = "a process is still there") -> AssertionError:
    return AssertionError(f"too late: {what}")


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has waited for is a zombie)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def start(tmp_path):
    """Start a Python script; it is ended with the test, with whatever calls its folder home."""
    started = []

    def starting(script=IDLE, words="born", **options):
        command = [sys.executable, "-c", script]
        env = {**PLAIN, "HOME": str(tmp_path)}
        child = spawn(command, env=env, cwd=tmp_path, ledger=tmp_path / "ledger", **options)
        started.append(child)
        if words:
            wait_until(lambda: words in child.output.text, 20, lambda: late(child.output.text))
        return child

    yield starting
    process.kill(daemons(tmp_path))
    for child in started:
        child.end()


def pids(child):
    """Return the process numbers that a script has printed, once there is one."""

    def numbers():
        return [int(word) for word in child.output.text.split() if word.isdigit()]

    return wait_until(numbers, 20, lambda: late(child.output.text))


# Starting


def test_a_child_is_alone(start, tmp_path):
    """A child has a session, an environment and a folder of its own, and no input."""
    script = (
        "import os, sys\nprint(os.getsid(0), sorted(os.environ), os.getcwd(), sys.stdin.read())"
    )
    child = start(script, words="")
    child.process.wait(20)

    names = sorted({*PLAIN, "HOME"} | {"LC_CTYPE"} & set(eval_list(child.output.finish())))
    assert child.output.text.split() == [str(child.pid), *str(names).split(), str(tmp_path)]
    assert (child.alive, child.exit_code) == (False, 0)


def eval_list(text):
    """Return the quoted words of a text."""
    return text.split("'")[1::2]


def test_the_ledger_names_every_child(start, tmp_path):
    """Each child is a line with its pid and its start, as the sweep looks for it."""
    children = [start(), start()]

    rows = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    assert rows == [identity(psutil.Process(child.pid)) for child in children]


def test_a_child_that_ends_at_once_is_noted_too(start, tmp_path):
    """However short it lives, a child is in the ledger and its end is known."""
    for n in range(20):
        child = start(f"raise SystemExit({n})", words="")
        assert child.process.wait(20) == child.exit_code == n

    assert len((tmp_path / "ledger").read_text().splitlines()) == 20


@pytest.mark.parametrize("command", [["/no/such/program"], ["no-such-program", "x"], ["."]])
def test_a_program_that_is_missing_is_the_labs_fault(tmp_path, command):
    """What can't be started is said with its name, and leaves no pipe open."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0

    with pytest.raises(LabFault, match="could not start") as caught:
        spawn(command, env=PLAIN, cwd=tmp_path, ledger=tmp_path / "ledger")
    assert command[0] in str(caught.value)
    assert not (tmp_path / "ledger").exists()
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_a_folder_or_log_that_is_missing_is_the_labs_fault(tmp_path):
    """A working directory or a log's folder that does not exist is no traceback."""
    missing = tmp_path / "missing"

    with pytest.raises(LabFault, match="missing"):
        spawn([sys.executable], env=PLAIN, cwd=missing, ledger=tmp_path / "ledger")
    with pytest.raises(LabFault, match="missing"):
        spawn(["true"], env=PLAIN, cwd=tmp_path, ledger=tmp_path / "ledger", log=missing / "log")


def test_a_child_that_cannot_be_noted_does_not_run(tmp_path, monkeypatch):
    """Where the ledger can't be written, say on a full disk, the child is ended again."""
    started = []
    popen = subprocess.Popen

    def remember(*args, **options):
        started.append(popen(*args, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", remember)
    with pytest.raises(LabFault, match="could not start"):
        spawn([sys.executable, "-c", IDLE], env=PLAIN, cwd=tmp_path, ledger=tmp_path)
    assert started[0].returncode == -signal.SIGKILL


def test_pipes_are_kept_on_request(start):
    """With `stdin` and `stdout` the child can be talked to; its errors are drained apart."""
    script = "import sys\nfor line in sys.stdin:\n    print(line.upper(), end='')\n"
    script += "    print('no', file=sys.stderr)"
    child = start(script, words="", stdin=True, stdout=True)

    out, _ = child.process.communicate(b"one\ntwo\n", timeout=20)
    assert (out, child.output.finish()) == (b"ONE\nTWO\n", "no\nno\n")


def test_output_can_go_to_a_file(start, tmp_path):
    """With `log` the output is appended to a file, which may outlive the grader."""
    (tmp_path / "log").write_text("before\n")
    child = start("print('after')", words="", log=tmp_path / "log")
    child.process.wait(20)

    assert (tmp_path / "log").read_text() == "before\nafter\n"
    assert child.output.finish() == ""


# Output


def test_a_flood_is_kept_short(start):
    """Of 100 MB the first and last half megabyte are kept, quickly and in little memory."""
    script = "import os\nos.write(1, b'first ')\nfor _ in range(1600): os.write(1, b'x' * 65536)\n"
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    child = start(script + "os.write(1, b' last')", words="")

    wait_until(lambda: child.output.text.endswith(" last"), 30, lambda: late("the flood"))
    text = child.output.text
    assert text.startswith("first ") and len(text) <= 2 * LOG_LIMIT
    assert child.output.size == 1600 * 65536 + 11
    assert time.monotonic() - began < 20
    kib = 1024 if sys.platform == "darwin" else 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / kib < 30_000


def test_a_short_output_is_whole():
    """What fits is kept to the last byte, in whatever pieces it comes."""
    reading, writing = os.pipe()
    output = Output(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        for n in range(1000):
            pipe.write(b"%03d," % n)

    assert output.finish() == "".join(f"{n:03d}," for n in range(1000))


@pytest.mark.parametrize("size", [LOG_LIMIT // 2, LOG_LIMIT, 3 * LOG_LIMIT // 2, 4 * LOG_LIMIT])
def test_only_the_middle_is_lost(size):
    """At every length the beginning and the end are there."""
    reading, writing = os.pipe()
    output = Output(reading)
    content = b"".join(b"%07d " % n for n in range(size // 8))
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(content)

    text = output.finish(20)
    kept = LOG_LIMIT // 2 - 8
    assert text[:kept] == content[:kept].decode() and text[-kept:] == content[-kept:].decode()
    assert output.size == len(content)


def test_bytes_that_are_no_text_do_not_matter():
    """Output is read as UTF-8, and what is none is replaced."""
    reading, writing = os.pipe()
    output = Output(reading)
    os.write(writing, "é".encode() + b"\xff")
    os.close(writing)

    assert output.finish() == "é\ufffd"


def test_waiting_for_the_end_has_an_end():
    """A pipe that somebody keeps open does not keep the grader."""
    reading, writing = os.pipe()
    output = Output(reading)
    os.write(writing, b"so far")

    wait_until(lambda: output.text, 20, late)
    assert output.finish(within=0.05) == "so far"
    os.close(writing)


# Ending

CHILDREN = f"""
import subprocess, sys
for _ in range(2):
    child = subprocess.Popen([sys.executable, "-c", {IDLE!r}])
    print(child.pid, flush=True)
"""


def test_descendants_are_ended(start):
    """The process ends with its children, and its family is empty then."""
    child = start(CHILDREN + IDLE)
    wait_until(lambda: child.output.text.count("born") == 3, 20, late)

    assert sorted(p.pid for p in child.family) == sorted([child.pid, *pids(child)])
    child.end()
    assert child.exit_code == -signal.SIGKILL and child.family == []
    for pid in pids(child):
        wait_until(lambda pid=pid: gone(pid), 10, late)


def test_end_can_be_called_twice_and_late(start):
    """`end` of a child that has ended, by itself or by `end`, does nothing and changes nothing."""
    child = start("print('born')")
    child.process.wait(20)
    for _ in range(3):
        child.end()

    assert (child.exit_code, child.alive) == (0, False)


# What a script starts that wants to live on: each prints the pids that it leaves behind.
ORPHAN = """
import os, signal
if os.fork() == 0:
    os.setpgid(0, 0)
    if os.fork() == 0:
        print(os.getpid(), 'born', flush=True)
        signal.pause()
    os._exit(0)
os.wait()
"""
LEAVER = """
import os, signal
if os.fork() == 0:
    os.setsid()
    print(os.getpid(), 'born', flush=True)
    signal.pause()
"""
DAEMON = """
import os, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), 'born', flush=True)
        signal.pause()
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("parent", ["lives", "died"])
def test_an_orphan_in_the_session_is_found(start, parent):
    """A grandchild whose parent died is found by its session, in a process group of its own too."""
    child = start(ORPHAN + (IDLE if parent == "lives" else ""))
    if parent == "died":
        child.process.wait(20)
    (pid,) = pids(child)
    assert pid in {p.pid for p in session(child.pid)}

    child.end()
    wait_until(lambda: gone(pid), 10, late)


def test_one_that_left_the_session_is_found_by_its_parent(start):
    """`setsid` alone hides nothing: it is still a child."""
    child = start(LEAVER + IDLE)
    (pid,) = pids(child)

    child.end()
    wait_until(lambda: gone(pid), 10, late)


def test_a_daemon_is_not_found_by_end(start, tmp_path):
    """What left the session and lost its parent escapes `end`; its home folder gives it away."""
    child = start(DAEMON + IDLE)
    wait_until(lambda: child.output.text.count("born") == 2, 20, late)
    (pid,) = pids(child)

    child.end()
    assert not gone(pid)
    assert [p.pid for p in daemons(tmp_path)] == [pid]
    assert list(daemons(tmp_path / "other")) == []


def test_a_daemon_that_changed_its_environment_is_not_found(start, tmp_path):
    """The honest limit without a sandbox: a daemon that forgets home and folder is nobody's."""
    again = f"os.chdir('/'); os.execve({sys.executable!r}, ['x', '-c', {IDLE!r}], {{}})"
    script = DAEMON.replace("        signal.pause()", f"        {again}")
    child = start(script, words="born\n")
    (pid,) = pids(child)
    try:
        wait_until(lambda: child.output.text.count("born") == 2, 20, late)
        child.end()
        assert not gone(pid) and list(daemons(tmp_path)) == []
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_daemon_that_holds_the_pipes_does_not_hold_the_grader(start):
    """`end` returns although a daemon keeps the child's output open that is just being read."""
    child = start("import os\nos.dup2(1, 3)\nos.dup2(2, 1)\n" + DAEMON, stdout=True)
    child.process.wait(20)
    reader = threading.Thread(target=child.process.stdout.readline, daemon=True)
    reader.start()

    ender = threading.Thread(target=child.end, daemon=True)
    ender.start()
    ender.join(10)
    assert not ender.is_alive() and reader.is_alive()


def test_signals_reach_the_group(start):
    """`signal` reaches the process and its children; for one that has ended it does nothing."""
    child = start(CHILDREN + IDLE)
    wait_until(lambda: child.output.text.count("born") == 3, 20, late)

    child.signal(signal.SIGTERM)
    child.process.wait(20)
    for pid in pids(child):
        wait_until(lambda pid=pid: gone(pid), 10, late)
    child.signal(signal.SIGTERM)


def test_a_reused_pid_is_left_alone(start):
    """A process that has got the pid of a child that ended is hit by neither `end` nor `signal`."""
    child, stranger = start("print('born')"), start()
    child.process.wait(20)
    # As if the system had given the stranger the number of the child.
    child.pid = stranger.pid
    child._top._pid = stranger.pid

    child.signal(signal.SIGKILL)
    child.end()
    assert child.family == []
    assert stranger.alive


# Waiting


def test_waiting_ends_with_the_condition():
    """The first true value comes back, and nothing is asked after it."""
    values = iter([0, None, "", "there"])

    assert wait_until(lambda: next(values), 20, late, every=0) == "there"


def test_waiting_ends_with_the_time():
    """When the time is over the fault is made and raised; the condition was asked at least once."""
    asked = []

    with pytest.raises(LabFault):
        wait_until(lambda: asked.append(1), 0, lambda: LabFault("redis_not_up", line="x"))
    assert asked


def test_a_conditions_own_error_passes():
    """What the condition raises is not mistaken for waiting."""
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0, 20, late)
