"""What holds a student's process, set up before any line of the submission runs."""

import contextlib
import ctypes
import json
import os
import signal
import sys

import calls

PARENT_DEATH, NAME, SUBREAPER = 1, 15, 36  # options of prctl
FATAL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def apply(text: str) -> None:
    """Set the limits in the JSON object `text`: resource.RLIMIT_* -> value, soft and hard.

    With "guard" among them a process is left behind that adopts and ends what this one starts.
    """
    limits = json.loads(text)
    guard = limits.pop("guard", False)
    with contextlib.suppress(ImportError):
        import resource

        for name, value in limits.items():
            # A system that knows no such limit, or has a lower one, goes without.
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (value, value))
    _die_with_parent()
    if guard and sys.platform == "linux":
        _leave_a_guard()
    calls.refuse()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies."""
    if sys.platform == "linux":
        _prctl(PARENT_DEATH, signal.SIGKILL)


def _prctl(option: int, value: object) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def _leave_a_guard() -> None:
    """Go on as a child of the process that was started; the parent is the guard of all it starts.

    A daemon, which has left its session and lost its parent, becomes the guard's child: where no
    process namespace does it, so nothing outlives the first process.
    """
    _prctl(SUBREAPER, 1)
    for number in FATAL:  # they are meant for the child
        signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    if child:
        _prctl(NAME, b"lab-guard")
        _guard(child)
    for number in FATAL:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _die_with_parent()


def _guard(child: int) -> None:
    """Wait for the child, end all that it left, and end as it did."""
    pid = status = 0
    while pid != child:
        pid, status = os.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            for orphan in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL)
            os.wait()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _children() -> list[int]:
    """Return the processes whose parent is this one."""
    found, me = [], str(os.getpid())
    for name in os.listdir("/proc"):
        with (
            contextlib.suppress(OSError, ValueError, IndexError),
            open(f"/proc/{name}/stat") as file,
        ):
            if file.read().rpartition(")")[2].split()[1] == me:
                found.append(int(name))
    return found


def search_here() -> None:
    """Import the submission from the working directory, and nothing from this folder."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd(), *(p for p in sys.path if p and os.path.abspath(p) != here)]
    # The submission may have modules of the same names as these.
    for name, module in tuple(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name != "__main__" and os.path.dirname(os.path.abspath(file)) == here:
            del sys.modules[name]
