"""Grades one submission against one exercise: runs checks in order, pulls in their prerequisites.

The same runner serves `lab grade`, `lab verify` and pytest. It turns what a check raises into a
verdict; nothing that goes wrong in the lab or in the grader ever becomes a student's failure.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import traceback
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from grader.check import Check, Hint
from grader.desk import Desk
from grader.errors import LabFault, SubmissionFault, UsageError
from grader.exercise import ROOT, Exercise
from grader.expect import last_difference
from grader.isolation import described, isolated
from grader.lab import Lab
from grader.process import stopped
from grader.sandbox import Sandbox, best
from grader.scene import scene, turn
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.verdict import Finding, Result, Verdict
from grader.words import LANGUAGES, NOTHING, Text

RUNS = ROOT / ".lab" / "runs"
Progress = Callable[[Finding], None]


class Lane:
    """Where checks follow each other: at most one lab at a time, and one check's turn in it."""

    def __init__(self) -> None:
        self.lab: Lab | None = None
        self.turn = threading.Lock()


class Run:
    """One submission on one broker. Findings are kept, so a check runs once however often asked.

    Several threads may ask. The lanes of the checks (see `check`) overlap once `begin` was called.
    """

    def __init__(
        self,
        exercise: Exercise,
        submission: Submission,
        broker: str,
        stack: Stack,
        seed: int,
        box: Sandbox | None = None,
        shares: int = 1,
        keep: Path | None = None,
    ) -> None:
        self.keep = keep or RUNS  # where the histories are saved
        self.exercise, self.submission, self.broker = exercise, submission, broker
        self.shares = shares  # among how many brokers a criterion's points are shared out
        self.stack, self.seed, self.box = stack, seed, box or best()
        self.findings: dict[str, Finding] = {}
        self.broken: SubmissionFault | None = None  # why the submission does not start
        self._broken_by = ""  # the criterion that met it
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)
        self._judged: dict[str, Future[Finding]] = {}
        self._claiming = threading.Lock()
        self._beside: ThreadPoolExecutor | None = None
        self._over = False
        self._desk: Desk | None = None
        self.scenes: list[Mapping[str, Any]] = []  # of the labs that are closed

    def begin(self, ids: Iterable[str]) -> None:
        """Start with those of the criteria that have a lane, beside what is asked for meanwhile."""
        lanes: dict[str, list[str]] = defaultdict(list)
        for id in ids:
            lanes[self.exercise.checks[id].lane].append(id)
        lanes.pop("", None)
        if lanes:
            self._beside = ThreadPoolExecutor(len(lanes), thread_name_prefix="lane")
            for row in lanes.values():
                self._beside.submit(self._follow, row)

    def _follow(self, ids: Sequence[str]) -> None:
        """Judge one lane's criteria; an error is kept for whoever asks for the finding."""
        for id in ids:
            if not self._over:
                self.finding(id)

    def finding(self, id: str) -> Finding:
        """Return the finding for a criterion, running its check and what it builds on if needed."""
        with self._claiming:
            mine = id not in self._judged
            future = self._judged.setdefault(id, Future())
        if mine:
            try:
                self.findings[id] = self._judge(self.exercise.checks[id])
            except BaseException as error:
                future.set_exception(error)
                raise
            future.set_result(self.findings[id])
        return future.result()

    def _judge(self, check: Check) -> Finding:
        for other in map(self.finding, check.after):
            if other.verdict is Verdict.UNKNOWN:
                return self._say(check, Verdict.UNKNOWN, observed=other.observed)
            if other.verdict is not Verdict.PASSED:
                return self._say(
                    check, Verdict.BLOCKED, observed=Text.of("blocked_by", id=other.id)
                )
        if self.broken and check.live:
            blocked_by = Text.of("blocked_by", id=self._broken_by)
            return self._say(check, Verdict.BLOCKED, observed=blocked_by)
        if self._waited_long():
            time_up = Text.of("time_up", seconds=self.exercise.patience)
            return self._say(check, Verdict.BLOCKED, observed=time_up)
        with self._claiming:
            lane = self._lanes[check.lane]
        # What it builds on was judged before: a check that has its turn waits for no other.
        with lane.turn:
            began = time.monotonic()
            finding = self._try(check, lane)
            if finding.verdict is Verdict.UNKNOWN and not self._over:
                finding = self._try(check, lane)
            return replace(finding, seconds=round(time.monotonic() - began, 3))

    def _waited_long(self) -> bool:
        """Whether the checks that failed took all the time that there is for such.

        Only theirs is counted: work that is right is never cut off, however slow the machine.
        """
        failed = [f for f in list(self.findings.values()) if f.verdict is Verdict.FAILED]
        return sum(finding.seconds for finding in failed) >= self.exercise.patience

    def _try(self, check: Check, lane: Lane) -> Finding:
        """Run the check once in a lab that nothing has disturbed."""
        last_difference()
        if stopped.is_set():  # nothing new is tried once the call was interrupted
            raise KeyboardInterrupt
        try:
            lab = self._fresh(lane) if check.live else self._reading()
            lab.rng = random.Random(self.seed ^ zlib.crc32(check.id.encode()))
            with _turn(check, lab):
                check.function(lab)
        except AssertionError as error:
            return self._failed(check, error)
        except SubmissionFault as fault:
            self._drop(lane)
            if fault is self.broken:
                self._broken_by = check.id
            return self._say(
                check,
                Verdict.FAILED,
                expected=Text.of("wanted_standing"),
                observed=fault.text,
                hint=self._hint(check, "default"),
            )
        except (LabFault, Exception) as error:
            if isinstance(error, UsageError):
                raise
            self._drop(lane)
            return self._say(check, Verdict.UNKNOWN, observed=lab_words(error))
        return self._say(check, Verdict.PASSED)

    def _failed(self, check: Check, error: AssertionError) -> Finding:
        difference = last_difference()
        if difference is None:
            # An assert that compared nothing: the check is wrong, not the submission.
            return self._say(check, Verdict.UNKNOWN, observed=lab_words(error))
        try:
            for text, lang in product((difference.expected, difference.observed), LANGUAGES):
                text.render(lang)
        except Exception as unsaid:  # a sentence lacks what its placeholders stand for
            return self._say(check, Verdict.UNKNOWN, observed=lab_words(unsaid))
        named = error.args[0] if error.args and isinstance(error.args[0], Hint) else Hint("default")
        hint = self._hint(check, named.name)
        if "NotImplementedError" in difference.observed.render("en"):
            hint = Text.of("hint_not_written")  # the starter's own mark
        return self._say(
            check,
            Verdict.FAILED,
            expected=difference.expected,
            observed=difference.observed,
            hint=hint,
        )

    def _fresh(self, lane: Lane) -> Lab:
        """Return a lab in good order; a submission that never starts is tried only once."""
        if lane.lab and (lane.lab.dirty or not lane.lab.worker.alive):
            self._drop(lane)
        if lane.lab is None:
            try:
                lane.lab = Lab(
                    self.exercise, self.submission, self.broker, self.stack, self.box, self.seed
                )
            except SubmissionFault as fault:
                self.broken = fault
                raise
        return lane.lab

    def _reading(self) -> Desk:
        """Return the desk where the files are read; one serves all checks."""
        if self._desk is None:
            self._desk = Desk(self.exercise, self.submission, self.stack, self.seed)
        return self._desk

    @property
    def remarks(self) -> tuple[Text, ...]:
        """What the checks had to say beside their verdicts."""
        return tuple(self._desk.remarks) if self._desk else ()

    def _drop(self, lane: Lane) -> None:
        lab, lane.lab = lane.lab, None
        # A submission can make folders too deep for shutil; the run's home removes them.
        with contextlib.suppress(RecursionError):
            if lab:
                # What was seen is for those who want to look: no verdict depends on it.
                with contextlib.suppress(Exception):
                    self.scenes.append(scene(lab.seen()))
                lab.close()

    def _hint(self, check: Check, name: str) -> Text:
        hints = self.exercise.criterion(check.id).hints
        return hints.get(name, hints["default"])

    def _say(self, check: Check, verdict: Verdict, **words: Text) -> Finding:
        row = self.exercise.criterion(check.id)
        share = row.points / self.shares
        titles = {"en": check.claim, **row.title}
        # A title is no template: its braces are its own.
        title = Text({k: t.replace("{", "{{").replace("}", "}}") for k, t in titles.items()})
        finding = Finding(check.id, title, _whole(share), row.bonus, verdict, self.broker)
        return replace(finding, **words)  # type: ignore[arg-type]

    def close(self) -> None:
        """Save what was seen, end everything."""
        self._over = True
        if self._beside:
            self._beside.shutdown(wait=False, cancel_futures=True)
        for name, lane in list(self._lanes.items()):
            stem = "-".join(filter(None, (self.exercise.id, self.broker, name)))
            # The history is a courtesy: no verdict depends on whether this folder can be written.
            with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
                if lane.lab:
                    lane.lab.save(self.keep / f"{stem}.json")
            self._drop(lane)
        if self._desk:
            self._desk.close()


@contextlib.contextmanager
def _turn(check: Check, lab: Any) -> Iterator[None]:
    """Give a check its turn; a live one's is noted, and a broker's error in it explained."""
    if not check.live:
        yield
        return
    with turn(check, lab), lab.judging():
        yield


def _whole(points: float) -> float:
    return int(points) if points == int(points) else points


def lab_words(error: BaseException) -> Text:
    """Return what to say of an error that is the lab's own."""
    if isinstance(error, LabFault):
        return error.text
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Text.of("grader_error", error=f"{type(error).__name__}: {error} ({where})")


def grade(
    exercise: Exercise,
    submission: Submission,
    brokers: Sequence[str],
    stack: Stack,
    seed: int,
    *,
    only: Iterable[str] = (),
    progress: Progress = lambda finding: None,
    box: Sandbox | None = None,
    keep: Path | None = None,
) -> Result:
    """Grade a submission on every broker named.

    Args:
        brokers: brokers to run on, all of them available.
        only: criteria to judge; all of the exercise's if empty.
        progress: called with each finding as it becomes known.
        keep: the folder for what was seen, a file for each broker and lane; .lab/runs by default.

    Returns:
        The result; a criterion's points are shared out equally among the brokers.
    """
    began = time.monotonic()
    findings: list[Finding] = []
    runs = [
        Run(exercise, submission, b, stack, seed, box, shares=len(brokers), keep=keep)
        for b in brokers
    ]
    for run in runs:
        try:
            ids = list(only or exercise.checks)
            run.begin(ids)
            for id in ids:
                findings.append(run.finding(id))
                progress(findings[-1])
        finally:
            run.close()
    return result_of(runs, findings, time.monotonic() - began)


def result_of(runs: Sequence[Run], findings: Sequence[Finding], seconds: float) -> Result:
    """Return the result of the runs of one submission.

    Args:
        runs: at least one, all of the same exercise, submission and seed.
        findings: those that count.
        seconds: how long it all took.
    """
    broken = [run.broken.text for run in runs if run.broken]
    if any(finding.verdict is Verdict.PASSED for finding in findings):
        broken = []  # it started all the same, say on the other broker
    return Result(
        runs[0].exercise.id,
        str(runs[0].submission.path),
        tuple(run.broker for run in runs),
        runs[0].seed,
        tuple(findings),
        isolation=described(runs[0].box),
        unsafe=not isolated(runs[0].box),
        note=broken[-1] if broken else NOTHING,
        scenes=tuple(scene for run in runs for scene in run.scenes),
        remarks=tuple({text.render("en"): text for run in runs for text in run.remarks}.values()),
        seconds=round(seconds, 3),
    )
