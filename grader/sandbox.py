"""What holds a student's processes: bubblewrap where it works, else a session and resource limits.

Inside bubblewrap the submission sees the interpreter, its libraries, its own copy and temporary
folders in memory; nothing of the repository, of other users or of the grader. Its network is the
cell's own (cell.py): loopback, and the ports of the lab. It is no root and can't make namespaces.
In either case calls to the kernel that nobody here needs are refused (inside/calls.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grader.errors import LabFault

INSIDE = Path(__file__).resolve().parent / "inside"
MIB = 1024 * 1024
# Per process. Address space, not memory in use: a prefork worker maps far more than it touches.
LIMITS = {
    "RLIMIT_CORE": 0,
    "RLIMIT_CPU": 300,
    "RLIMIT_AS": 4096 * MIB,
    "RLIMIT_FSIZE": 64 * MIB,
    "RLIMIT_NOFILE": 1024,
}
# In a user namespace they are counted apart (Linux 5.14); outside it is the user who is counted.
# For root the kernel counts nothing: there a control group does (cgroup.py).
MOST_PROCESSES = 256
# What stands above a program of the submission in the tree of processes.
WRAPPERS = ("sh", "nsenter", "bwrap", "env", "lab-guard")
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin")
ETC = ("ld.so.cache", "hosts", "passwd", "group", "nsswitch.conf", "localtime", "ssl", "mime.types")
KERNEL = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "pressure", "scsi")
UNSHARE = ("user", "pid", "ipc", "uts", "cgroup-try")


@dataclass(frozen=True)
class Sandbox:
    """How to start a program of a submission. `kind` is "bubblewrap" or "limits"."""

    kind: str

    def command(
        self,
        program: str,
        arguments: Sequence[str],
        folders: Sequence[Path],
        place: Path,
        private: Path,
        hosts: Path,
    ) -> list[str]:
        """Return the command that runs one of the programs of grader/inside.

        Args:
            program: "worker", "client" or "program".
            arguments: what follows the limits on its command line.
            folders: the submission's copy, which is the working directory, and others; writable.
            place: the cell's file system in memory; parts of it are shown as the folders.
            private: the process's own part of it, for /tmp and /dev/shm. It is new: where others
                could have left links, bubblewrap would follow them when it makes mount points.
            hosts: what it shows as /etc/hosts.
        """
        script = INSIDE / f"{program}.py"
        # -I takes no notice of PYTHONUNBUFFERED: what is printed before a SIGKILL would be lost.
        python = [sys.executable, "-I", "-u", str(script)]
        if self.kind == "bubblewrap":
            limits = json.dumps({**LIMITS, "RLIMIT_NPROC": MOST_PROCESSES})
            return [*_bubblewrap(folders, place, private, hosts), *python, limits, *arguments]
        command = [*python, json.dumps({**LIMITS, "guard": True}), *arguments]
        # Temporary files go into the copy, because it is removed; processes are killed, not asked.
        return ["env", f"TMPDIR={folders[0]}", *command]


@functools.cache
def best() -> Sandbox:
    """Return the strongest sandbox that works on this machine, tried by running it once."""
    return Sandbox("bubblewrap" if _bubblewrap_works() else "limits")


@functools.cache
def refuses_calls() -> bool:
    """Whether system calls that no submission needs are refused here, tried by doing so once."""
    script = "import sys; sys.path.append(sys.argv[1]); import calls; sys.exit(not calls.refuse())"
    command = [sys.executable, "-I", "-S", "-c", script, str(INSIDE)]
    try:
        return not subprocess.run(command, capture_output=True, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _bubblewrap_works() -> bool:
    from grader.home import new_folder, remove

    if not (shutil.which("bwrap") and shutil.which("nsenter")):
        return False
    try:
        temp = new_folder("try")
    except LabFault:
        return False
    try:
        return _runs_in(temp)
    except (LabFault, OSError, subprocess.TimeoutExpired):
        return False
    finally:
        remove(temp)
        with contextlib.suppress(OSError):
            temp.parent.rmdir()  # only when no run is there


def _runs_in(temp: Path) -> bool:
    from grader.cell import Cell

    folder = temp / "work"
    folder.mkdir()
    (folder / "try.py").write_text("import json")
    with Cell(Sandbox("bubblewrap"), folder, temp / "ledger") as cell:
        command = cell.command("program", ["try.py"])
        return not subprocess.run(command, capture_output=True, timeout=60, env={}).returncode


def _bubblewrap(folders: Sequence[Path], place: Path, private: Path, hosts: Path) -> list[str]:
    bwrap = shutil.which("bwrap") or "bwrap"
    command = [bwrap, "--die-with-parent", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000"]
    command += [f"--unshare-{name}" for name in UNSHARE]
    command += ["--disable-userns"]
    for path in SYSTEM:
        command += _same(path)
    for name in ETC:
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    command += ["--ro-bind", str(hosts), "/etc/hosts"]
    command += ["--dev", "/dev", "--proc", "/proc"]
    # For root the user inside is root outside, and the kernel's own settings would be his to write.
    for name in KERNEL:
        command += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for path, name in (("/tmp", "tmp"), ("/dev/shm", "shm")):
        command += ["--bind", str(private / name), path]
    for path in (*_interpreter(), str(INSIDE)):
        command += ["--ro-bind", path, path]
    for number, folder in enumerate(folders):
        command += ["--bind", str(place / str(number)), str(folder)]
    command += ["--chdir", str(folders[0])]
    # Both lie in memory and have no size of their own.
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/"]


def _same(path: str) -> list[str]:
    """Show a system folder as it is: a link stays a link."""
    if os.path.islink(path):
        return ["--symlink", os.readlink(path), path]
    return ["--ro-bind-try", path, path]


def _interpreter() -> list[str]:
    """Return the folders of Python and its packages, outermost first, system ones left out."""
    real = Path(sys.executable).resolve().parent.parent
    wanted = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(real)}
    wanted |= {p for p in sys.path if p.endswith(("site-packages", "dist-packages"))}
    kept: list[str] = []
    for path in sorted(wanted):
        if path.startswith("/usr") or path == "/" or not Path(path).exists():
            continue
        if not any(Path(path).is_relative_to(k) for k in kept):
            kept.append(path)
    return kept


def environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a student's process: nothing of the grader's is in it."""
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Celery refuses some things to root; under bubblewrap nobody is root.
        "C_FORCE_ROOT": "1",
        **extra,
    }
