"""grader/home.py: a run's folder, and the sweep of what dead runs have left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from grader import home as module
from grader.errors import LabFault, NoSpace
from grader.home import Home, base, remove, sweep
from grader.process import identity, record, spawn, wait_until
from grader.sandbox import environment

NOBODY = 65534
IDLE = "import signal\nprint('born', flush=True)\nsignal.pause()"
# A daemon: forks twice, leaves the session, and prints who it is.
DAEMON = """
import os, signal, sys
if os.fork():
    os.wait()
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
signal.pause()
"""


def late(what: str = "a process is still there") -> AssertionError:
    return AssertionError(f"too late: {what}")


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended (one that nobody has waited for is a zombie)."""
    try:
        return process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    """A temporary folder of the test's own, and the base for runs in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def start(temp):
    """Start a script in a session of its own and return its process; it is ended with the test."""
    started = []

    def starting(script=IDLE, ledger=None, env=None):
        ledger = ledger or temp / "ledger"
        command = [sys.executable, "-c", script]
        child = spawn(command, env=env or {}, cwd=temp, ledger=ledger)
        started.append(child)
        wait_until(lambda: child.output.text.strip(), 20, lambda: late("no sign of life"))
        return child

    yield starting
    for child in started:
        child.end()


def orphan(owner: dict | str | None, ledger: str = "", name: str = "run-old") -> Path:
    """Make the folder of a run whose grader is no more; return it."""
    folder = base() / name
    folder.mkdir()
    if owner is not None:
        text = owner if isinstance(owner, str) else json.dumps(owner)
        (folder / "owner.json").write_text(text)
    (folder / "ledger.jsonl").write_text(ledger)
    return folder


DEAD = {"pid": 2**22 - 1, "started": 1.0}


# A run's own folder


def test_a_home_is_private_and_removed(temp):
    """The folder is closed to others, has owner and ledger, and takes the base with it."""
    with Home() as home:
        assert home.folder.parent == base()
        assert (home.folder.stat().st_mode & 0o777, base().stat().st_mode & 0o777) == (0o700,) * 2
        owner = json.loads((home.folder / "owner.json").read_text())
        assert owner == identity(psutil.Process())
        assert home.ledger.read_text() == ""

    assert list(temp.iterdir()) == []


def test_homes_open_and_close_at_once(monkeypatch):
    """A home that opens while the last other one closes, and removes the base, finds its place."""
    monkeypatch.setattr(module, "daemons", lambda folder: ())  # looking for them takes long

    def live(n):
        for _ in range(60):
            with Home() as home:
                assert home.ledger.is_file()
        return n

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(live, range(4))) == [0, 1, 2, 3]


def test_closed_and_very_deep_folders_are_removed(temp):
    """What a submission made of its folder does not matter: no right to enter, 1500 levels deep."""
    program = f"""
import os
from pathlib import Path
from grader.home import remove
if os.getuid() == 0:
    try:
        os.setgid({NOBODY})
        os.setuid({NOBODY})
    except PermissionError:
        print("still root")
        raise SystemExit
top = Path({str(temp)!r}, "run")
(top / "closed" / "inner").mkdir(parents=True)
(top / "closed" / "inner").chmod(0)
(top / "closed").chmod(0o500)
os.chdir(top)
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
os.chdir("/")
remove(top)
print("left" if top.exists() else "removed")
"""
    temp.chmod(0o777)
    with reachable(temp):
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    subprocess.run(["rm", "-rf", str(temp / "run")], check=True)  # pytest could not

    if run.stdout.strip() == "still root":
        pytest.skip("no folder is closed to root, and this root can't become somebody else")
    assert run.stdout.strip() == "removed", run.stderr


class reachable:
    """Lets every user pass through a folder's parents while the block runs."""

    def __init__(self, folder: Path) -> None:
        self.modes = {p: p.stat().st_mode for p in folder.parents if p.stat().st_uid == os.getuid()}

    def __enter__(self) -> None:
        for path, mode in self.modes.items():
            path.chmod(mode | 0o111)

    def __exit__(self, *_: object) -> None:
        for path, mode in self.modes.items():
            path.chmod(mode)


def test_a_home_ends_daemons_of_its_submission(start, temp):
    """A process that left its session and lost its parent is found by its home folder."""
    with Home() as home:
        folder = home.folder / "work"
        folder.mkdir()
        child = start(DAEMON, env=environment(folder, {}))
        daemon = psutil.Process(int(child.output.text))
        wait_until(lambda: not child.alive, 10, late)
        assert child.family == [] and not gone(daemon)

    wait_until(lambda: gone(daemon), 10, late)


# Where the base may be


def test_a_home_that_closes_ends_what_still_runs(temp):
    """A process that a thread had just started ends with the home; after that none starts."""
    home = Home()
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    child = spawn(command, env={}, cwd=home.folder, ledger=home.ledger)

    home.close()

    wait_until(lambda: not child.alive, 10, late)
    with pytest.raises(LabFault, match="start"):
        spawn(command, env={}, cwd=home.folder, ledger=home.ledger)
    assert list(temp.rglob("run-*")) == []


def test_too_little_space_is_said(monkeypatch):
    """Less than 50 MiB free is refused with both numbers, before anything is made."""
    usage = shutil.disk_usage("/")._replace(free=49 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    with pytest.raises(NoSpace, match=r"49 MiB free; the lab needs 50 MiB"):
        Home()
    with pytest.raises(NoSpace):
        sweep()


def test_a_disk_that_fills_up_leaves_no_folder(monkeypatch):
    """A home that can't write its files is the lab's fault, and its folder goes again."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Home, "belongs_to", full)
    with pytest.raises(NoSpace):
        Home()
    assert not Path(tempfile.gettempdir(), f"celery-lab-{os.getuid()}").exists()


def test_a_symlink_in_place_of_the_base_is_refused(temp):
    """A link laid by somebody else leads nowhere, whether its target is there or not."""
    (temp / "elsewhere").mkdir()
    place = temp / f"celery-lab-{os.getuid()}"
    for target in ("elsewhere", "missing"):
        place.symlink_to(temp / target)
        with pytest.raises(LabFault):
            Home()
        place.unlink()
    assert list((temp / "elsewhere").iterdir()) == []


def test_a_file_in_place_of_the_base_is_refused(temp):
    """A plain file where the base should be is explained."""
    (temp / f"celery-lab-{os.getuid()}").touch()

    with pytest.raises(LabFault, match="can't be used"):
        Home()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_base_of_somebody_else_is_refused(temp):
    """A folder that belongs to another user is not used, and the sentence says what to do."""
    os.chown(base(), NOBODY, NOBODY)

    with pytest.raises(LabFault, match=r"another user.*TMPDIR"):
        Home()
    with pytest.raises(LabFault, match="another user"):
        sweep()


OPEN = """
from grader.errors import LabFault
from grader.home import base
try:
    print(base())
except LabFault as fault:
    print("fault:", fault)
"""


def run_python(program, *prefix, **env):
    """Run a program in a fresh interpreter and return what came of it."""
    command = [*prefix, sys.executable, "-c", program]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)


def test_a_missing_tmpdir_is_passed_over(temp):
    """Where TMPDIR names nothing, the system's own temporary folder serves."""
    program = "import tempfile\nfrom grader import home\nprint(home._temp(), tempfile.gettempdir())"
    run = run_python(program, TMPDIR=str(temp / "missing"))

    assert run.stdout.split() == [str(temp / "missing"), "/tmp"], run.stderr


def test_a_machine_without_a_writable_folder_is_explained():
    """Where not one folder can be written to, the error is a sentence that names TMPDIR."""
    prefix = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--chdir", "/"]
    if not shutil.which("bwrap") or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("bubblewrap, which makes everything read-only, does not work here")

    run = run_python(OPEN, *prefix)

    assert "fault: The temporary folder" in run.stdout and "TMPDIR" in run.stdout, run.stderr


# The sweep


def test_a_dead_runs_processes_and_folder_go(start):
    """What a dead grader's ledger names is ended with its children, and the folder removed."""
    folder = orphan(DEAD)
    script = (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', '''" + IDLE + "'''])\n"
    )
    child = start(script + IDLE, ledger=folder / "ledger.jsonl")
    family = child.family
    wait_until(lambda: len(child.family) == 2, 10, late)
    family = child.family

    assert sweep() == [folder]

    for process in family:
        wait_until(lambda process=process: gone(process), 10, late)
    assert not folder.exists()


def test_a_dead_runs_daemons_go(start):
    """A daemon of a submission, whose parent no ledger can find any more, is ended too."""
    folder = orphan(DEAD)
    (folder / "work").mkdir()
    child = start(DAEMON, env=environment(folder / "work", {}))
    daemon = psutil.Process(int(child.output.text))

    sweep()

    wait_until(lambda: gone(daemon), 10, late)


def test_a_server_that_nobody_noted_down_goes(temp):
    """A grader killed before it could write its ledger leaves a server: its folder tells."""
    folder = orphan(DEAD)
    server = subprocess.Popen(
        [sys.executable, "-c", IDLE], cwd=folder, env={}, start_new_session=True
    )

    assert sweep() == [folder]

    assert server.wait(10) < 0


def test_a_living_runs_processes_and_folder_stay(start):
    """A run whose grader lives is left alone."""
    with Home() as home:
        child = start(ledger=home.ledger)

        assert sweep() == []
        assert child.alive and home.folder.is_dir()


def test_a_clock_that_was_set_ends_nothing(start, monkeypatch):
    """The clock may jump while a run lives: its grader still counts as alive."""
    with Home() as home:
        linux = sys.modules.get("psutil._pslinux", psutil)
        before = linux.boot_time()
        for place in (linux, psutil):
            monkeypatch.setattr(place, "boot_time", lambda: before + 3600)

        assert sweep() == []
        assert home.folder.is_dir()


def test_a_reused_pid_is_not_touched(start):
    """A process that has got a ledger's pid since (another start time) lives on."""
    folder = orphan(DEAD)
    child = start()
    entry = identity(psutil.Process(child.pid))
    old = {**entry, "started": entry["started"] - 3.0}
    (folder / "ledger.jsonl").write_text(json.dumps(old) + "\n")

    assert sweep() == [folder]
    assert child.alive


def test_an_owners_reused_pid_does_not_keep_a_folder():
    """A folder whose owner's pid belongs to another process now is swept."""
    entry = identity(psutil.Process())

    assert sweep() == []
    folder = orphan({**entry, "started": entry["started"] - 3.0})
    assert sweep() == [folder]


GARBAGE = [
    "not json",
    "",
    "[]",
    "7",
    "null",
    "{}",
    '{"pid": "x", "started": 1}',
    '{"pid": -1, "started": 1}',
    '{"pid": 1e400, "started": 1}',
    f'{{"pid": {10**30}, "started": 1}}',
    f'{{"pid": {os.getpid()}, "started": "now"}}',
    f'{{"pid": {os.getpid()}}}',
    "[" * 100_000,
    '{"pid": ' + "9" * 5000 + "}",
]


def test_garbage_in_a_ledger_is_passed_over(start):
    """Broken lines, and bytes that are no text, hide no process that stands below them."""
    folder = orphan(DEAD)
    child = start(ledger=folder / "ledger.jsonl")
    line = (folder / "ledger.jsonl").read_bytes()
    text = "\n".join(GARBAGE).encode() + b"\n\xff\xfe\x00\n" + line + b'{"pid": 1'
    (folder / "ledger.jsonl").write_bytes(text)

    assert sweep() == [folder]
    wait_until(lambda: not child.alive, 10, late)


@pytest.mark.parametrize("owner", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_for_an_owner_is_no_owner(owner):
    """A folder whose owner can't be read belongs to nobody."""
    folder = orphan(owner)

    assert sweep() == [folder]


def test_a_folder_that_is_only_just_made_stays():
    """A young folder without an owner is a run that begins; an old one is swept."""
    folder = orphan(None)

    assert sweep() == []
    os.utime(folder, (1e9, 1e9))
    assert sweep() == [folder]


def test_two_sweeps_at_once_do_no_harm(start):
    """Several graders that start together sweep together, and every folder goes."""
    children = []
    for n in range(6):
        folder = orphan(DEAD, name=f"run-{n}")
        children.append(start(ledger=folder / "ledger.jsonl"))
        (folder / "deep" / "tree").mkdir(parents=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sweep(), range(4)))

    assert list(base().iterdir()) == []
    for child in children:
        wait_until(lambda child=child: not child.alive, 10, late)


def test_files_and_links_in_the_base_are_not_followed(temp):
    """A stray file or link beside the runs' folders is left alone with all it leads to."""
    precious = temp / "precious"
    precious.mkdir()
    (precious / "file").touch()
    os.utime(precious, (1e9, 1e9))
    (base() / "link").symlink_to(precious)
    (base() / "stray").touch()

    assert sweep() == []
    assert (precious / "file").exists()


def test_a_process_that_ended_at_once_is_no_error(temp, start):
    """Noting a process that is gone already leaves the ledger as it was."""
    record(temp / "ledger", 2**22 - 1)

    assert (temp / "ledger").read_text() == ""


def test_removing_what_is_not_there_is_no_error(temp):
    """`remove` of a folder that is gone does nothing."""
    remove(temp / "missing")


def test_errors_other_than_a_full_disk_are_told_apart():
    """ENOSPC and EDQUOT are no space, anything else names the folder and the error."""
    full = module.no_space(OSError(28, "x"), Path("/t"))
    closed = module.no_space(PermissionError(13, "Permission denied"), Path("/t"))

    assert isinstance(full, NoSpace) and not isinstance(closed, NoSpace)
    assert "Permission denied" in str(closed) and "/t" in str(closed)
