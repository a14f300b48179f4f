"""grader/sandbox.py and grader/inside: what a submission's process sees, may do, and leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from grader import sandbox
from grader.cell import DISK_BYTES, Cell
from grader.exercise import ROOT
from grader.process import spawn, wait_until
from grader.sandbox import LIMITS, Sandbox, best, environment

SECRET = "a-secret-of-the-grader"
needs_bubblewrap = pytest.mark.skipif(
    best().kind != "bubblewrap", reason="bubblewrap does not work on this machine"
)
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param("bubblewrap", marks=needs_bubblewrap), "limits"]
)


def late(what: str = "a process is still there") -> AssertionError:
    return AssertionError(f"too late: {what}")


@pytest.fixture
def work(tmp_path):
    """The copy of a submission, beside another run's."""
    folder = tmp_path / "run" / "work"
    folder.mkdir(parents=True)
    (tmp_path / "other run").mkdir()
    (tmp_path / "other run" / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture
def cells(work, tmp_path):
    """Return a function that makes a cell of that kind around the submission."""
    with contextlib.ExitStack() as stack:

        def make(kind="bubblewrap", **options):
            return stack.enter_context(
                Cell(Sandbox(kind), work, tmp_path / "run" / "ledger", **options)
            )

        yield make


@pytest.fixture
def start(work, tmp_path, monkeypatch, cells):
    """Write a script into the submission and start it in a sandbox of that kind."""
    monkeypatch.setenv("LAB_SECRET", SECRET)
    started = []

    def starting(script, kind="limits", cell=None, **extra):
        cell = cell or cells(kind)
        (cell.seen(work) / "script.py").write_text(script)
        command = cell.command("program", ["script.py", "--port", "1"])
        env = environment(work, extra)
        child = spawn(command, env=env, cwd=work, ledger=tmp_path / "run" / "ledger")
        started.append(child)
        return child

    yield starting
    for child in started:
        child.end()


@pytest.fixture
def run(start):
    """Run a script to its end and return what it printed, read as JSON."""

    def running(script, kind="bubblewrap", **options):
        child = start(script, kind, **options)
        child.process.wait(30)
        text = child.output.finish()
        assert child.exit_code == 0, text
        return json.loads(text)

    return running


# What can be seen

LOOK = f"""
import json, os, sys
def look(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return None
def read(path):
    try:
        return open(path, errors="replace").read()
    except OSError:
        return ""
processes = [p for p in os.listdir("/proc") if p.isdigit()]
print(json.dumps({{
    "listed": {{path: look(path) for path in sys.argv[1:] or json.loads(os.environ["LOOK"])}},
    "secrets": [p for p in processes if {SECRET!r} in read(f"/proc/{{p}}/environ")],
    "processes": [read(f"/proc/{{p}}/cmdline").replace("\\0", " ") for p in processes],
    "environment": dict(os.environ),
    "who": [os.getuid(), os.getgid(), os.getcwd(), os.environ["HOME"]],
    "status": read("/proc/self/status"),
}}))
""".replace("sys.argv[1:] or ", "")


@needs_bubblewrap
def test_only_its_own_is_seen(run, work, tmp_path):
    """Repository, homes, other runs and the grader's processes and environment are out of sight."""
    home, temp = str(Path.home()), str(tmp_path.parent)
    paths = [
        str(ROOT),
        home,
        temp,
        str(tmp_path),
        str(tmp_path / "other run"),
        "/var",
        "/home",
        "/",
    ]
    seen = run(LOOK, LOOK=json.dumps(paths))
    listed = seen["listed"]

    # Of what lies on the way to the interpreter or to the copy, only that way is there.
    allowed = {sys.prefix, sys.base_prefix, str(sandbox.INSIDE), str(work)}
    for path in (str(ROOT), home, temp, str(tmp_path)):
        for name in listed[path] or []:
            inside = os.path.join(path, name)
            assert any(a == inside or a.startswith(inside + "/") for a in allowed), inside
    assert listed[str(tmp_path)] == ["run"]
    assert listed[str(tmp_path / "other run")] is None
    assert listed["/var"] is None
    assert "exercises" not in (listed[str(ROOT)] or []) and "tests" not in (listed[str(ROOT)] or [])
    assert seen["secrets"] == [] and SECRET not in json.dumps(seen["environment"])
    assert len(seen["processes"]) == 2, "only bubblewrap's first process and this one"


@needs_bubblewrap
def test_nobody_is_root_inside(run, work):
    """The process is an ordinary user without any capability, and can't get one."""
    seen = run(LOOK, LOOK="[]")
    status = dict(line.split(":\t", 1) for line in seen["status"].splitlines() if ":\t" in line)

    assert seen["who"] == [1000, 1000, str(work), str(work)]
    assert {status[f"Cap{name}"].strip("0") for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {""}
    assert status["NoNewPrivs"] == "1"


@each_kind
def test_the_environment_is_the_labs(run, kind, work):
    """Nothing of the grader's environment reaches a submission, only what the lab gives it."""
    seen = run(LOOK, kind, LOOK="[]", CELERY_BROKER_URL="redis://x")["environment"]

    names = {"PATH", "HOME", "LANG", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "C_FORCE_ROOT"}
    assert set(seen) - {"PWD", "TMPDIR", "LC_CTYPE"} == {*names, "LOOK", "CELERY_BROKER_URL"}
    assert seen["HOME"] == str(work)


# What can be written

WRITE = """
import json, os
def write(path):
    try:
        with open(path, "wb") as file:
            file.write(b"x")
        return True
    except OSError as error:
        return error.errno
def room(path):
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize
places = json.loads(os.environ["PLACES"])
print(json.dumps({
    "written": {place: write(place + "/probe.txt") for place in places},
    "room": {place: room(place) for place in ("/tmp", "/dev/shm")},
}))
"""


@needs_bubblewrap
def test_only_its_copy_can_be_written(run, work, tmp_path):
    """The copy and small private folders in memory are writable, and nothing else is."""
    probes = ["/", "/usr", "/etc", "/dev", "/root", str(sandbox.INSIDE), sys.prefix]
    # A repository below /tmp has a stand-in in the private /tmp, which is writable and not it.
    probes += [] if ROOT.is_relative_to("/tmp") else [str(ROOT)]
    own = [str(work), "/tmp", "/dev/shm"]
    seen = run(WRITE, PLACES=json.dumps([*probes, *own]))

    assert {place: seen["written"][place] for place in own} == dict.fromkeys(own, True)
    assert not [place for place in probes if seen["written"][place] is True]
    assert seen["room"] == {"/tmp": DISK_BYTES, "/dev/shm": DISK_BYTES}
    assert not any(Path(place, "probe.txt").exists() for place in (*probes, *own))


@needs_bubblewrap
def test_processes_share_no_temporary_folder(run, cells):
    """What one process leaves in /tmp no other one finds, nor a link that would lead it astray."""
    leave = "open('/tmp/note', 'w').write('x')\nprint('[]')"
    look = "import json, os\nprint(json.dumps(os.listdir('/tmp')))"
    cell = cells()
    run(leave, cell=cell)

    assert "note" not in run(look, cell=cell)


@needs_bubblewrap
def test_the_disk_is_bounded(run, work):
    """Whoever writes without end, in bytes or in files, meets the end of the lab's own disk."""
    script = """
import errno, json, os
said = []
for name, size in (("big", 16 * 2**20), ("small", 0)):
    try:
        for number in range(40_000):
            folder = (".", "/tmp", "/dev/shm")[number % 3]
            with open(f"{folder}/{name}{number}", "wb") as file:
                file.write(b"x" * size)
    except OSError as error:
        said.append(errno.errorcode[error.errno])
        for folder in (".", "/tmp", "/dev/shm"):
            for entry in os.scandir(folder):
                if entry.name.startswith(name):
                    os.unlink(entry.path)
print(json.dumps(said))
"""
    free = shutil.disk_usage(work).free
    assert run(script) == ["ENOSPC", "ENOSPC"]
    assert free - shutil.disk_usage(work).free < DISK_BYTES / 2, "it went to the real disk"


def test_temporary_files_go_with_the_copy(run, work):
    """Without a sandbox of its own a submission's temporary files lie in its copy."""
    script = "import json, tempfile\nprint(json.dumps(tempfile.mkstemp()[1]))"

    assert Path(run(script, "limits")).parent == work


# Limits

ASK = """
import json, resource, sys
limits = {name: resource.getrlimit(getattr(resource, name)) for name in sys.argv[1:]}
print(json.dumps(limits))
"""


@each_kind
def test_limits_are_in_force(run, kind):
    """Each limit is set, soft and hard, before the submission's first line, in either kind."""
    names = [*LIMITS]
    seen = run(ASK.replace("sys.argv[1:]", repr(names)), kind)

    for name, value in LIMITS.items():
        if hasattr(__import__("resource"), name):
            assert max(seen[name]) <= value, name


@pytest.mark.skipif(sys.platform != "linux", reason="macOS knows no limit of the address space")
@each_kind
def test_limits_hurt(run, kind, work):
    """Too much memory, too large a file and too many open files are refused to the process."""
    script = """
import json, os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
said = []
try:
    bytearray(6 * 2**30)
except MemoryError:
    said.append("memory")
try:
    with open("big", "wb") as file:
        file.truncate(65 * 2**20)
except OSError:
    said.append("size")
os.unlink("big")
try:
    files = [open("/dev/null") for _ in range(2000)]
except OSError:
    said.append("files")
print(json.dumps(said))
"""
    assert run(script, kind) == ["memory", "size", "files"]


def test_a_lower_limit_of_the_system_stays(cells, work):
    """Where the machine allows less than the lab's limits, the submission starts all the same."""
    import resource

    (work / "script.py").write_text(ASK.replace("sys.argv[1:]", "['RLIMIT_NOFILE']"))
    command = cells("limits").command("program", ["script.py"])

    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    done = subprocess.run(
        command, cwd=work, env=environment(work, {}), capture_output=True, preexec_fn=lower
    )
    assert json.loads(done.stdout) == {"RLIMIT_NOFILE": [100, 100]}, done.stderr


@each_kind
def test_what_is_printed_is_seen_at_once(start, kind):
    """What a submission printed before it was killed is not lost in a buffer."""
    child = start("import signal\nprint('here', end='')\nsignal.pause()", kind)

    wait_until(lambda: child.output.text == "here", 20, lambda: late(child.output.text))


CALLS = """
import ctypes, errno, json, socket, threading
libc, said = ctypes.CDLL(None, use_errno=True), {}
def call(name, *arguments):
    said[name] = errno.errorcode[ctypes.get_errno()] if libc[name](*arguments) < 0 else ""
call("socket", 40, 1, 0)
call("ptrace", 16, 1, None, None)
call("unshare", 0x10000000)
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
    socket.socket(family).close()
thread = threading.Thread(target=said.update, args=({"thread": ""},))
thread.start()
thread.join()
print(json.dumps(said))
"""


@pytest.mark.skipif(not sandbox.refuses_calls(), reason="libseccomp is not installed")
@each_kind
def test_calls_that_nobody_needs_are_refused(run, kind):
    """A socket of the virtual machine, a look into a neighbour, a namespace; threads work."""
    assert run(CALLS, kind) == {
        "socket": "EAFNOSUPPORT",
        "ptrace": "EPERM",
        "unshare": "EPERM",
        "thread": "",
    }


def test_a_machine_without_libseccomp_is_known(monkeypatch):
    """What can't be refused is not said to be."""
    sandbox.refuses_calls.cache_clear()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert not sandbox.refuses_calls()
    sandbox.refuses_calls.cache_clear()


def test_a_process_goes_on_without_libseccomp(run):
    """Where the library is missing nothing is refused, and nothing fails."""
    script = (
        f"import json, sys; sys.path.append({str(sandbox.INSIDE)!r}); import calls\n"
        "calls.LIBRARY = 'libnone.so'\nprint(json.dumps(calls.refuse()))"
    )
    assert run(script, "limits") is False


# Modules


@pytest.mark.parametrize("name", ["limits", "calls", "client", "worker", "program", "pace"])
def test_the_labs_own_names_are_free(run, work, name):
    """A student's module may be called like one of the lab's own programs."""
    (work / f"{name}.py").write_text("WHOSE = 'the student'\n")

    script = f"import json, {name}\nprint(json.dumps({name}.WHOSE))"
    assert run(script, "limits") == "the student"


def test_what_was_imported_before_is_out_of_the_way():
    """Whatever of its own a program imports first, a submission's module of that name is found."""
    names = sorted(path.stem for path in sandbox.INSIDE.glob("[a-z]*.py"))
    plain = [name for name in names if name in ("calls", "limits", "pace", "settle", "stand")]
    script = (
        f"import json, sys; sys.path.append({str(sandbox.INSIDE)!r}); import {', '.join(plain)}; "
        "limits.search_here(); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert len(plain) == 5
    assert not set(plain) & set(json.loads(done.stdout))


def test_programs_get_their_arguments(run):
    """A script finds its own name and arguments, as if it had been started by hand."""
    assert run("import json, sys\nprint(json.dumps(sys.argv))", "limits") == [
        "script.py",
        "--port",
        "1",
    ]


# The end

DAEMON = """
import os, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({alive!r}, "w").close()
        print("daemon", flush=True)
        signal.pause()
    os._exit(0)
os.wait()
{then}
"""


def inhabitants(folder):
    """Return the living processes that call the folder home, as every process of a run does."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@needs_bubblewrap
@pytest.mark.parametrize("then", ["signal.pause()", "", "os.kill(os.getpid(), 9)", "1 / 0"])
def test_everything_ends_with_the_sandbox(start, work, then):
    """A daemon dies with its sandbox: when that is ended, and when the first process ends."""
    child = start(DAEMON.format(alive=str(work / "alive"), then=then), "bubblewrap")
    wait_until(lambda: "daemon" in child.output.text or not child.alive, 20, late)
    assert inhabitants(work) or then != "signal.pause()"

    if then == "signal.pause()":
        child.end()
    wait_until(lambda: not inhabitants(work), 20, late)
    assert (child.process.wait(20) == 0) is (then == "")


@each_kind
def test_everything_ends_with_the_grader(work, tmp_path, kind):
    """A grader that is killed takes the submission's process with it, at once."""
    (work / "script.py").write_text("import signal\nprint('born', flush=True)\nsignal.pause()")
    grader = f"""
import signal, sys
from pathlib import Path
from grader.process import spawn, wait_until
from grader.cell import Cell
from grader.sandbox import Sandbox, environment
work = Path({str(work)!r})
cell = Cell(Sandbox({kind!r}), work, work.parent / "ledger")
child = spawn(cell.command("program", ["script.py"]),
              env=environment(work, {{}}), cwd=work, ledger=work.parent / "ledger")
wait_until(lambda: "born" in child.output.text, 20, AssertionError)
print("ready", flush=True)
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-c", grader], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        assert inhabitants(work)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    wait_until(lambda: not inhabitants(work), 20, late)


# Which sandbox


def test_the_best_is_found_by_trying(monkeypatch):
    """Without bubblewrap, or where it fails or hangs, limits are what is left."""
    try:
        for broken in ("/bin/false", None):
            best.cache_clear()
            monkeypatch.setattr("shutil.which", lambda name, broken=broken: broken)
            assert best() == Sandbox("limits")
        best.cache_clear()
        monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
        monkeypatch.setattr(subprocess, "run", hang)
        assert best() == Sandbox("limits")
    finally:
        best.cache_clear()


def hang(command, **options):
    raise subprocess.TimeoutExpired(command, options["timeout"])
