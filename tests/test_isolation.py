"""grader/cgroup.py, grader/isolation.py, --strict: bounds on a whole lab, and honesty on them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from grader import cgroup, doctor, isolation
from grader.cell import Cell
from grader.cgroup import Group
from grader.errors import LabFault, SubmissionFault
from grader.isolation import demand, described, gaps, isolated
from grader.lab import Lab
from grader.process import Child, lives, spawn, wait_until
from grader.sandbox import MOST_PROCESSES, Sandbox, best, environment
from grader.words import LANGUAGES
from grader.worker import WRAPPERS

BUBBLEWRAP, LIMITS = Sandbox("bubblewrap"), Sandbox("limits")
needs_bubblewrap = pytest.mark.skipif(
    best().kind != "bubblewrap", reason="bubblewrap does not work on this machine"
)
needs_groups = pytest.mark.skipif(
    "pids" not in cgroup.controllers(), reason="no control groups can be made here"
)
each_box = pytest.mark.parametrize(
    "box", [pytest.param(BUBBLEWRAP, marks=needs_bubblewrap), LIMITS], ids=lambda box: box.kind
)


@pytest.fixture
def start(tmp_path):
    """Start a script in a cell of its own; end it and close the cell afterwards."""
    work = tmp_path / "work"
    work.mkdir()
    with contextlib.ExitStack() as stack:

        def starting(script: str, box: Sandbox = LIMITS) -> tuple[Child, Cell]:
            (work / "script.py").write_text(script)
            cell = stack.enter_context(Cell(box, work, tmp_path / "ledger"))
            child = spawn(
                cell.command("program", ["script.py"]),
                env=environment(work, {}),
                cwd=work,
                ledger=tmp_path / "ledger",
            )
            stack.callback(child.end)
            return child, cell

        yield starting


def said(child: Child, word: str) -> str:
    """Wait until the child has printed the word and return all that it printed."""
    wait_until(
        lambda: word in child.output.text or not child.alive,
        60,
        lambda: AssertionError(child.output.text),
    )
    return child.output.text


# Bounds

BOMB = """
import os, signal
children = 0
while True:
    try:
        if os.fork() == 0:
            signal.pause()
        children += 1
    except OSError as error:
        print(f"refused after {children};", flush=True)
        signal.pause()
"""


@needs_bubblewrap
@pytest.mark.skipif(
    "processes" in gaps(BUBBLEWRAP), reason="nothing bounds the number of processes here"
)
def test_a_fork_bomb_meets_its_bound(start):
    """Who forks without end is refused soon, and all of it is gone when it is ended."""
    child, _ = start(BOMB, BUBBLEWRAP)
    text = said(child, ";")
    family = child.family

    assert 50 < int(text.split()[-1].rstrip(";\n")) <= MOST_PROCESSES
    child.end()
    wait_until(lambda: not any(map(lives, family)), 30, AssertionError)


SHY_DAEMON = """
import os, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        print("daemon", flush=True)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.execve("/bin/sleep", ["sleep", "{seconds}"], {{}})
    os._exit(0)
os.wait()
{then}
"""


def sleepers(seconds: str) -> list[psutil.Process]:
    """Return the living processes that sleep for so many seconds."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:] == [seconds] and lives(process):
                found.append(process)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt daemons")
@each_box
@pytest.mark.parametrize("then", ["signal.pause()", "", "os.kill(os.getpid(), 9)", "1 / 0"])
def test_a_shy_daemon_is_found(start, box, then, tmp_path):
    """A process without session, parent, home or any name of ours ends with what started it."""
    seconds = f"{100_000 + os.getpid()}"
    child, _ = start(SHY_DAEMON.format(seconds=seconds, then=then), box)
    said(child, "daemon")
    if then == "signal.pause()":
        wait_until(lambda: sleepers(seconds), 20, AssertionError)
        child.end()

    wait_until(lambda: not sleepers(seconds), 20, AssertionError)
    assert (child.process.wait(20) == 0) is (then == "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a guard")
def test_a_guard_ends_as_what_it_guards(start):
    """Exit status and signal of the first process are those that the grader sees."""
    codes = {"raise SystemExit(7)": 7, "import os\nos.kill(os.getpid(), 15)": -15, "1 / 0": 1}
    for script, code in codes.items():
        child, _ = start(script)
        assert child.process.wait(30) == code, child.output.finish()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a guard")
@each_box
def test_what_holds_a_program_is_told_from_it(start, box):
    """The first process that is none of the lab's own is the program itself."""
    child, _ = start(
        "import os, signal\nprint('pid', os.getppid(), flush=True)\nsignal.pause()", box
    )
    said(child, "pid")

    names = [process.name() for process in child.family]
    own = [name for name in names if name not in WRAPPERS]
    assert len(own) == 1 and own[0].startswith("python"), names


# Control groups


@needs_groups
def test_a_group_holds_what_is_started_in_it():
    """A process is in the group from its first moment, with its children; closing ends them."""
    group = Group.open()
    assert group
    script = "sleep 1000 & sleep 1000 & echo here; wait"
    process = subprocess.Popen(group.entering(["/bin/sh", "-c", script]), stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"here\n"

    assert process.pid in group.pids and len(group.pids) == 3
    group.close()
    group.close()
    assert process.wait(10) == -9
    process.stdout.close()
    assert not any(folder.exists() for folder in group.folders)


@needs_groups
@pytest.mark.skipif("memory" not in cgroup.controllers(), reason="no bound on memory here")
def test_memory_is_bounded_together(start, monkeypatch):
    """Processes that each keep to their own limit can't take more than the lab's together."""
    limits = {
        name: (file, value if name != "memory" else 96 * 2**20)
        for name, (file, value) in cgroup.LIMITS_1.items()
    }
    monkeypatch.setattr(cgroup, "LIMITS_1", limits)
    limits = {
        name: (file, value if name != "memory" else 96 * 2**20)
        for name, (file, value) in cgroup.LIMITS_2.items()
    }
    monkeypatch.setattr(cgroup, "LIMITS_2", limits)
    hoard = """
import os
statuses = []
for _ in range(4):
    if os.fork() == 0:
        hoarded = b"x" * (40 * 2**20)
        import signal; signal.pause()
while True:
    _, status = os.wait()
    print(f"ended by {os.WTERMSIG(status)};", flush=True)
"""
    child, _ = start(hoard)

    # The kernel ends one of the processes: perhaps a hoarder, perhaps their parent.
    assert "ended by 9;" in said(child, ";") or child.exit_code == -9


@needs_groups
def test_a_dead_graders_groups_are_swept():
    """What a killed grader left in a group is ended by the next one, and the group removed."""
    grader = """
import signal, subprocess
from grader.cgroup import Group
group = Group.open()
child = subprocess.Popen(group.entering(["sleep", "1000"]))
while child.pid not in group.pids: pass
print(child.pid, *group.folders, flush=True)
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-c", grader], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    pid, *folders = process.stdout.readline().split()
    left = psutil.Process(int(pid))
    process.kill()
    process.wait()
    process.stdout.close()
    assert lives(left)

    group = Group.open()
    assert group
    group.close()
    wait_until(lambda: not lives(left), 10, AssertionError)
    assert not any(map(os.path.exists, folders))


def test_where_no_group_can_be_made_there_is_none(monkeypatch, tmp_path):
    """No tree mounted, or none that may be written: then there is no group, and no error."""
    monkeypatch.setattr(cgroup, "_mounts", list)
    assert Group.open() is None
    closed = tmp_path / "closed"
    closed.write_text("")
    monkeypatch.setattr(cgroup, "_mounts", lambda: [("cgroup2", [], closed)])
    assert Group.open() is None


def test_a_tree_without_the_controllers_gives_no_group(monkeypatch, tmp_path):
    """A folder in which no bound can be set is removed again."""
    monkeypatch.setattr(cgroup, "_mounts", lambda: [("cgroup2", [], tmp_path)])
    monkeypatch.setattr(cgroup, "_own", lambda controller: "")

    assert Group.open() is None
    assert not list(tmp_path.iterdir())


def test_a_process_that_stays_is_the_labs_fault(monkeypatch, tmp_path):
    """A group that can't be emptied is said, and never passed over."""
    monkeypatch.setattr(cgroup, "END_SECONDS", 0.1)
    (tmp_path / "stays").touch()

    with pytest.raises(LabFault, match="could not be ended"):
        Group([tmp_path]).close()


def test_a_filled_server_is_the_submissions_failure():
    """Who fills its private Redis has failed; on somebody's own server nobody can tell who did."""
    import redis

    full = redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    lab = Lab.__new__(Lab)
    lab.broker = "redis"
    for private, kind in ((True, SubmissionFault), (False, LabFault)):
        lab.space = SimpleNamespace(standing=True, private=private, overrun=False)
        assert isinstance(lab._explain(full), kind)


# What is said


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes this a machine with such control groups and such a user.

    Its libseccomp can be missing.
    """

    def make(*controllers: str, root: bool = False, seccomp: bool = True) -> None:
        monkeypatch.setattr(cgroup, "controllers", lambda: controllers)
        monkeypatch.setattr(isolation, "refuses_calls", lambda: seccomp)
        monkeypatch.setattr(os, "getuid", lambda: 0 if root else 1000)

    return make


def test_gaps_are_what_is_not_enforced(machine):
    """What is open depends on the sandbox, on the control groups, and on who runs the grader."""
    machine("cpu", "memory", "pids")
    assert gaps(BUBBLEWRAP) == ()
    assert gaps(LIMITS) == ("network", "files", "disk")
    machine()
    assert gaps(BUBBLEWRAP) == ("memory",)
    assert gaps(LIMITS) == ("network", "files", "disk", "processes", "memory")
    machine(root=True)
    assert gaps(BUBBLEWRAP) == ("processes", "memory")
    machine("memory", "pids", seccomp=False)
    assert gaps(BUBBLEWRAP) == ("calls",)
    assert isolated(BUBBLEWRAP)


def test_one_line_says_it(machine):
    """The line names the kind and every gap, in the language that is asked for."""
    machine(root=True)
    assert (
        described(BUBBLEWRAP)
        .render("en")
        .endswith("not enforced: number of processes, memory of all processes together")
    )
    assert "进程数量、所有进程的内存总量" in described(BUBBLEWRAP).render("zh")
    machine("memory", "pids")
    for lang in LANGUAGES:
        assert "{" not in described(LIMITS).render(lang)
        assert "bubblewrap" in described(BUBBLEWRAP).render(lang)


def test_marks_need_isolation(machine):
    """Without isolation a strict grading is refused in a sentence, unless told --unsafe."""
    machine("memory", "pids")
    demand(BUBBLEWRAP, unsafe=False)
    demand(LIMITS, unsafe=True)
    with pytest.raises(LabFault, match=r"not enforced: network, .* --unsafe"):
        demand(LIMITS, unsafe=False)
    machine(root=True)
    assert not isolated(BUBBLEWRAP)
    with pytest.raises(LabFault, match="number of processes"):
        demand(BUBBLEWRAP, unsafe=False)


@pytest.mark.parametrize("root", [False, True])
def test_the_doctor_says_it(machine, monkeypatch, root):
    """`lab doctor` tells what is enforced, and whether --strict grades here."""
    machine(root=root)
    items = {item.what: item for item in doctor._isolation()}

    assert set(items) == {"isolation", "limits", "strict"}
    assert items["isolation"].level == "note"
    whole = isolated(best())
    assert items["strict"].level == ("ok" if whole else "note")
    for item in items.values():
        assert item.said.render("en") and item.said.render("zh")


def without_bubblewrap(copy) -> dict[str, str]:
    """Return an environment in which no bubblewrap is found, but all else is."""
    folder = copy.temp.parent / "no bwrap"
    if not folder.exists():
        folder.mkdir()
        for place in map(Path, os.environ["PATH"].split(os.pathsep)):
            for program in place.iterdir() if place.is_dir() else ():
                if program.name != "bwrap":
                    with contextlib.suppress(FileExistsError):
                        (folder / program.name).symlink_to(program)
    return {"PATH": str(folder)}


def test_strict_refuses_and_unsafe_marks(copy):
    """Without a sandbox --strict grades nothing; with --unsafe every result says so."""
    env = without_bubblewrap(copy)
    call = ("grade", "9_9", "--submission", copy.solution, "--strict")

    refused = copy.lab(*call, **env)
    assert refused.returncode == 3 and "9_9" not in refused.stdout
    assert "--unsafe" in refused.stderr and "Traceback" not in refused.stderr
    done = copy.lab(*call, "--unsafe", "--format", "json", **env)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["unsafe"] is True and "limits" in document["isolation"]
    card = copy.lab(*call, "--unsafe", **env)
    assert "NOT ISOLATED" in card.stdout
    assert not copy.left_behind()


def test_pytest_refuses_as_well(copy):
    """pytest's own door has the same options; its --strict is another one."""
    refused = copy.pytest("exercises/9_9", "--lab-strict", **without_bubblewrap(copy))

    assert refused.returncode == 3
    assert "--unsafe" in refused.stdout + refused.stderr


@needs_bubblewrap
@pytest.mark.skipif(not isolated(best()), reason="not everything is enforced here")
def test_strict_grades_where_it_can(copy):
    """Where all is enforced --strict changes nothing, and the result is not marked."""
    done = copy.lab("grade", "9_9", "--submission", copy.solution, "--strict", "--format", "json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["unsafe"] is False
