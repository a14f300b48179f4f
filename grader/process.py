"""Child processes: started in a session of their own, their output kept short, ended whole.

Every child is written into the run's ledger (pid and start time) before it is used, so that a later
run can end what a grader left behind that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from grader.errors import LabFault

if TYPE_CHECKING:
    import psutil

LOG_LIMIT = 1_000_000
# Set by an interrupt of the call (session.interruptible): Python loses one that comes in the midst
# of a callback, and none ever reaches the threads that grade.
stopped = threading.Event()
T = TypeVar("T")
# Each is called with every child that was started: so the suite of attacks hears what they print.
watchers: list[Callable[[Child], None]] = []


class Output:
    """Drains a pipe and keeps its first and its last half megabyte, however much comes."""

    def __init__(self, stream: int) -> None:
        self._head, self._tail = bytearray(), bytearray()
        self._lock = threading.Lock()
        self.size = 0
        self._thread = threading.Thread(target=self._drain, args=(stream,), daemon=True)
        self._thread.start()

    def _drain(self, stream: int) -> None:
        with contextlib.suppress(OSError), os.fdopen(stream, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65536):
                self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        with self._lock:
            self.size += len(chunk)
            room = LOG_LIMIT // 2 - len(self._head)
            self._head += chunk[:room] if room > 0 else b""
            self._tail += chunk[max(room, 0) :]
            if len(self._tail) > LOG_LIMIT:
                del self._tail[: -LOG_LIMIT // 2]

    @property
    def text(self) -> str:
        """What was printed so far, the middle left out where it was too much."""
        with self._lock:
            return (self._head + self._tail).decode("utf-8", "replace")

    def finish(self, within: float = 1.0) -> str:
        """Wait for the end of the pipe, at most `within` seconds, and return the text."""
        self._thread.join(within)
        return self.text


class Child:
    """One process that the grader started, with everything that it starts."""

    def __init__(self, process: subprocess.Popen[bytes], output: Output) -> None:
        import psutil

        self.process, self.output = process, output
        self.pid = process.pid
        self._top = psutil.Process(self.pid)  # knows the start time, so never means another

    @property
    def alive(self) -> bool:
        """Whether the process itself still runs."""
        return self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while it runs, negative for a signal."""
        return self.process.poll()

    @property
    def family(self) -> list[psutil.Process]:
        """The process and all its living descendants, the process first."""
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            if self._top.is_running():
                return [self._top, *self._top.children(recursive=True)]
        return []

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the process and its living descendants have used."""
        import psutil

        total = 0.0
        for process in self.family:
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                total += used.user + used.system
        return total

    @property
    def _session(self) -> list[psutil.Process]:
        """The other processes of its session and group: also those whose parent has died."""
        return [] if self._pid_reused else session(self.pid)

    @property
    def _pid_reused(self) -> bool:
        """Whether another process has the pid by now: what is called by it is none of ours."""
        import psutil

        return not self._top.is_running() and psutil.pid_exists(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the process group."""
        if not self._pid_reused:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def end(self, within: float = 5.0) -> None:
        """Kill the process and all it started; return when all of it is gone, or after `within`.

        Found are its descendants and the processes of its session. A daemon (a process that has
        left the session and lost its parent) is one of them as well: in bubblewrap the kernel ends
        it before the sandbox's first process is gone, elsewhere it falls to the guard on top.
        """
        deadline = time.monotonic() + within
        # The process itself comes last: it may be what keeps the others findable.
        while (others := self._others) and time.monotonic() < deadline:
            kill(others)
            _await_end(others, deadline - time.monotonic())
        self.signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.5, deadline - time.monotonic()))
        # Standard output is closed by who reads it: to close it here would wait for a reader that
        # waits for a daemon.
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.output.finish()

    @property
    def _others(self) -> list[psutil.Process]:
        """All that lives of it but the process itself."""
        return [p for p in (*self.family[1:], *self._session) if lives(p)]


def _await_end(processes: Iterable[psutil.Process], within: float) -> None:
    """Wait until none of the processes lives, at most `within` seconds."""
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not any(map(lives, processes)), within, TimeoutError)


def lives(process: psutil.Process) -> bool:
    """Whether a process is there and can still do something."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() not in ("zombie", "dead")
    return False


def session(leader: int) -> list[psutil.Process]:
    """Return the processes of a session without its leader."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != leader and os.getsid(process.pid) == leader:
                found.append(process)
    return found


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL to each; psutil checks the start time, so a reused pid is safe."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    ledger: Path,
    stdin: bool = False,
    stdout: bool = False,
    log: Path | None = None,
) -> Child:
    """Start a process in its own session, its output drained, and note it in the ledger.

    Args:
        command: the program and its arguments.
        env: the whole environment; nothing of the grader's own is added.
        cwd: the working directory.
        ledger: the run's list of processes, one JSON object a line.
        stdin: keep a pipe to its standard input (`child.process.stdin`).
        stdout: keep a pipe of its standard output apart (`child.process.stdout`); then only
            standard error is drained.
        log: write the output to this file instead, for a process that outlives the grader.

    Raises:
        LabFault: the program can't be started, or not be noted in the ledger.
    """
    try:
        process, reading = _open(command, dict(env), cwd, stdin, stdout, log)
    except OSError as error:
        raise LabFault("cannot_start", program=command[0], error=error) from error
    child = Child(process, Output(reading))
    try:
        record(ledger, child.pid)
    except OSError as error:
        child.end()  # a later run could not
        raise LabFault("cannot_start", program=command[0], error=error) from error
    for watch in watchers:
        watch(child)
    return child


def _open(
    command: Sequence[str],
    env: dict[str, str],
    cwd: Path,
    stdin: bool,
    stdout: bool,
    log: Path | None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Return the process, and the descriptor from which its output is read."""
    reading, writing = _output_to(log)
    try:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else writing,
            stderr=writing,
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, reading


def _output_to(log: Path | None) -> tuple[int, int]:
    """Return the descriptor to read the output from and the one to write it to."""
    if log is None:
        return os.pipe()
    writing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return os.open(os.devnull, os.O_RDONLY), writing


def record(ledger: Path, pid: int) -> None:
    """Note a process by pid and start time, so that a later run can end it."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess), ledger.open("a") as file:
        file.write(json.dumps(identity(psutil.Process(pid))) + "\n")


def identity(process: psutil.Process) -> dict[str, float]:
    """Return what tells a process from every other: its pid, and its start in seconds since boot.

    Since boot, because a clock that is set (by NTP, after a sleep of the machine) moves all epoch
    times, and a run that is alive would look dead.
    """
    import psutil

    return {"pid": process.pid, "started": process.create_time() - psutil.boot_time()}


def wait_until(
    ready: Callable[[], T], within: float, fault: Callable[[], Exception], every: float = 0.004
) -> T:
    """Return the first true value of `ready()`.

    Args:
        within: seconds to wait at most.
        fault: makes the error to raise when the time is over.
        every: seconds between two looks.
    """
    deadline = time.monotonic() + within
    while True:
        if value := ready():
            return value
        if time.monotonic() > deadline:
            raise fault()
        threading.Event().wait(every)
