"""Grades an exercise's folder again whenever its files change, in one warm session.

Each grading has a thread of its own. A change ends the one that is under way: its processes are
killed, so that whatever it waited for ends too, and nothing more is heard of it. So a submission
that hangs holds up nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from grader.errors import LabError
from grader.exercise import Exercise
from grader.home import Home
from grader.record import Record
from grader.runner import Run, result_of
from grader.stack.provider import Stack
from grader.starter import work
from grader.submission import Submission
from grader.verdict import Finding, Result
from grader.words import Text

END_SECONDS = 10


def snapshot(exercise: Exercise) -> Mapping[str, str]:
    """Return the files to be graded with a hash of each; what editors leave beside them is none."""
    found = {}
    with contextlib.suppress(OSError):  # a folder that goes while it is read: look again later
        for name, path in work(exercise.folder).items():
            if not path.name.startswith((".", "#")) and not path.name.endswith(("~", ".swp")):
                with contextlib.suppress(OSError):
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def in_order(exercise: Exercise, record: Record | None) -> list[str]:
    """Return the criteria to judge: first what the last run did not pass, then the rest."""
    ids = list(exercise.checks)
    if record is None:
        return ids
    failed = {e["id"] for e in record.entries("en") if e["verdict"] != "passed"}
    return sorted(ids, key=lambda id: id not in failed)


class Grading:
    """One grading in a thread of its own.

    Args:
        ids: the criteria in the order in which they are judged, on one broker after the other.
        tell: called from that thread with each finding and how many there are by then; never once
            the grading was ended.
    """

    def __init__(
        self,
        exercise: Exercise,
        brokers: Sequence[str],
        stack: Stack,
        seed: int,
        ids: Sequence[str],
        tell: Callable[[Finding, int], None],
    ) -> None:
        submission, self._ids, self._tell = Submission.at(exercise.folder), ids, tell
        shares = len(brokers)
        self._runs = [Run(exercise, submission, b, stack, seed, shares=shares) for b in brokers]
        self._findings: list[Finding] = []
        self._over = False
        self._speaking = threading.Lock()
        self.result: Result | None = None
        self.error: Text | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._grade, daemon=True, name="grading")

    def begin(self) -> None:
        """Start it; not before somebody holds it who will end it, whenever Ctrl-C comes."""
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has come to its end, with a result or an error."""
        return not self._thread.is_alive()

    def end(self) -> None:
        """End it: nothing is told from now on, its processes are killed."""
        with self._speaking:
            self._over = True
        for run in self._runs:
            run.close()

    def await_end(self, within: float) -> bool:
        """Wait until its thread has ended, at most so many seconds; whether it has."""
        if self._thread.ident is not None:
            self._thread.join(within)
        return self.done

    def _grade(self) -> None:
        try:
            for run in self._runs:
                self._judge(run)
            if not self._over:
                seconds = time.monotonic() - self._began
                self.result = result_of(self._runs, self._findings, seconds)
        except LabError as error:
            self.error = error.text
        except Exception as error:  # of a lab that was closed meanwhile, or the grader's own
            self.error = Text.of("watch_error", error=f"{type(error).__name__}: {error}")

    def _judge(self, run: Run) -> None:
        try:
            if not self._over:
                run.begin(self._ids)
            for id in self._ids:
                if self._over:
                    return
                finding = run.finding(id)
                with self._speaking:
                    if not self._over:
                        self._findings.append(finding)
                        self._tell(finding, len(self._findings))
        finally:
            run.close()  # also what was opened while it was ended


class Vigil:
    """Keeps the gradings: at most one counts at a time.

    Args:
        start: makes a grading of what lies in the folder now; it has not begun.
        ended: called once with each grading that came to its end by itself.
    """

    def __init__(
        self,
        exercise: Exercise,
        start: Callable[[], Grading],
        ended: Callable[[Grading], None],
    ) -> None:
        self._exercise, self._start, self._ended = exercise, start, ended
        self._seen: Mapping[str, str] | None = None
        self._grading: Grading | None = None
        self._ending: list[Grading] = []  # whose threads may still be about to start something

    def look(self) -> None:
        """Look at the folder and at the grading: begin, begin anew, or tell the end.

        Raises:
            UsageError: there is nothing in the folder that could be graded.
        """
        now = snapshot(self._exercise)
        if now != self._seen:
            self._end()
            self._seen = now
            self._grading = self._start()
            self._grading.begin()
        elif self._grading and self._grading.done:
            grading, self._grading = self._grading, None
            self._ended(grading)

    def _end(self) -> None:
        """End the grading that is under way, without waiting for it."""
        if grading := self._grading:
            self._ending = [*(g for g in self._ending if not g.done), grading]
            self._grading = None
            grading.end()

    def close(self, home: Home) -> None:
        """End everything, so that nothing is left behind once the home is closed again.

        What a thread waits for ends with the home, and nothing new can start; what a thread was
        making just then is there a moment later.
        """
        self._end()
        for grading in self._ending:  # an interrupt may have come while one was ended
            grading.end()
        home.close()
        for grading in self._ending:
            grading.await_end(END_SECONDS)


def with_missing(result: Result, missing: Sequence[str]) -> Result:
    """Return the result with the brokers that this machine lacks."""
    return replace(result, brokers_not_run=tuple(missing))
