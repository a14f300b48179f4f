"""Runs attacks and says what did not hold.

An attack is graded like any other submission. It must have run, have won nothing, have earned no
criterion that the submission below it does not earn, and have turned none into `unknown`; what it
was after must be where it was, and none of its processes may live on.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from grader.attacks.case import BARRIERS, Attack, attacks
from grader.attacks.ground import Ground, planted
from grader.attacks.overlay import lay
from grader.attacks.reports import report_problems
from grader.errors import BadSubmission
from grader.exercise import SOLUTIONS, Exercise
from grader.isolation import gaps
from grader.process import Child
from grader.runner import grade
from grader.sandbox import Sandbox, best
from grader.session import as_they_end
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.verdict import Result, Verdict

# Most of an attacked grading is waiting.
AT_ONCE = 4
# What one check may cost that never gets an answer: the import, the worker's start, a wait for an
# answer stretched three times. A busy machine has that many times more.
SECONDS = 90.0


@dataclass(frozen=True)
class Bout:
    """One attack on one exercise, by their ids, and what came of it: no problems is success."""

    attack: str
    exercise: str
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    not_enforced: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = "not enforced here" if self.not_enforced else "FAIL" if self.problems else "ok  "
        lacking = f"  ({', '.join(self.not_enforced)})" if self.not_enforced else ""
        head = f"{words}  attacks/{self.exercise}/{self.attack}  {self.seconds:.1f} s{lacking}"
        return "\n".join([head, *(f"      {problem}" for problem in self.problems)])


@dataclass
class Suite:
    """Attacks on a ground.

    Args:
        ground: where they are run.
        box: what holds their processes.
        barriers: what the box enforces, out of `case.BARRIERS`.
        seed: of every grading.
    """

    ground: Ground
    box: Sandbox
    barriers: frozenset[str]
    seed: int

    def run(self, pairs: Sequence[tuple[Attack, Exercise]]) -> Iterator[Bout]:
        """Run several attacks at once and yield each as it is over."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for future in as_they_end([pool.submit(self.one, a, e) for a, e in pairs]):
                yield future.result()

    def one(self, attack: Attack, exercise: Exercise) -> Bout:
        """Run one attack; one that this sandbox can't hold is not run."""
        if lacking := attack.not_enforced(self.barriers):
            return Bout(attack.id, exercise.id, not_enforced=lacking)
        began = time.monotonic()
        nonce = f"lab-attack-{attack.id}-{secrets.token_hex(4)}"
        facts = self.ground.facts(exercise, nonce)
        place = self.ground.folder / nonce
        place.mkdir()
        path = lay(attack, exercise, place, facts)
        laid = time.monotonic()
        try:
            result: Result | None = self._grade(attack, exercise, Submission.at(path))
        except BadSubmission:
            result = None
        problems = [
            *self._problems(attack, exercise, result, nonce),
            *self.ground.harm(),
            *planted(nonce),
        ]
        if time.monotonic() - laid > SECONDS * _busy():
            problems.append(f"it took {time.monotonic() - laid:.0f} s")
        return Bout(attack.id, exercise.id, tuple(problems), time.monotonic() - began)

    def _grade(self, attack: Attack, exercise: Exercise, work: Submission) -> Result:
        broker: Any = [self.ground.broker]
        only = attack.criteria(exercise)
        # The watched stack has all that a Lab asks of one.
        stack: Any = self.ground.stack
        return grade(exercise, work, broker, stack, self.seed, only=only, box=self.box)

    def _problems(
        self, attack: Attack, exercise: Exercise, result: Result | None, nonce: str
    ) -> Iterator[str]:
        mine = [child for child in self.ground.children if nonce in child.output.text]
        text = "\n".join(child.output.text for child in mine)
        if result is None:
            yield from [] if attack.refused else ["it was refused before it ran"]
            return
        if attack.refused:
            yield "it was not refused"
        if not attack.quiet and f"[{nonce}] ran" not in text:
            yield "it never ran"
        yield from (line for line in text.splitlines() if line.startswith(f"[{nonce}] won"))
        yield from self._leaks(attack, exercise, result, text)
        yield from self._verdicts(attack, exercise, result)
        yield from report_problems(result)
        yield from _alive(mine)

    def _leaks(
        self, attack: Attack, exercise: Exercise, result: Result, text: str
    ) -> Iterator[str]:
        said = [w.render("en") for f in result.findings for w in (f.observed, f.expected)]
        for name, secret in self.ground.secrets_of(exercise).items():
            if secret in text or any(secret in words for words in said):
                yield f"it read {name}"

    def _verdicts(self, attack: Attack, exercise: Exercise, result: Result) -> Iterator[str]:
        # What the submission below it earns: a starter nothing, a solution everything. `lab verify`
        # sees to both.
        rows = {row.id for row in exercise.criteria} if attack.on == "solution" else set()
        for finding in result.findings:
            passed = finding.verdict is Verdict.PASSED
            if finding.verdict is Verdict.UNKNOWN:
                yield f"{finding.id} is unknown: {finding.observed.render('en')[:400]}"
            elif passed and finding.id not in rows:
                yield f"{finding.id} passed"
            elif attack.keeps and not passed and finding.id in rows:
                yield f"{finding.id} is {finding.verdict}: {finding.observed.render('en')[:400]}"

    def afterwards(self, exercise: Exercise) -> Bout:
        """Grade the reference solution where the attacks were: it loses nothing."""
        stack: Any = self.ground.stack
        work = Submission.at(SOLUTIONS / exercise.id)
        result = grade(exercise, work, [self.ground.broker], stack, self.seed, box=self.box)
        problems = [
            f"the solution lost {f.id}: {f.observed.render('en')}"
            for f in result.findings
            if f.verdict is not Verdict.PASSED
        ]
        return Bout("afterwards", exercise.id, tuple(problems), result.seconds)


def _alive(children: Sequence[Child]) -> Iterator[str]:
    for child in children:
        for process in child.family:
            yield f"its process {process.pid} is still there"


def bouts(broker: str, exercises: Sequence[Exercise]) -> list[tuple[Attack, Exercise]]:
    """Return each attack with each exercise that it is run against on a broker."""
    return [
        (attack, exercise)
        for exercise in exercises
        for attack in attacks()
        if attack.fits(exercise) and broker in attack.brokers and broker in exercise.brokers
    ]


def storm(
    stack: Stack, brokers: Sequence[str], seed: int, exercises: Sequence[Exercise]
) -> Iterator[Bout]:
    """Run all attacks against the exercises, and grade their solutions when it is over."""
    for broker in brokers:
        with Ground(stack, broker) as ground:
            suite = Suite(ground, best(), barriers(best()), seed)
            yield from suite.run(bouts(broker, exercises))
            for exercise in exercises:
                if broker in exercise.brokers:
                    yield suite.afterwards(exercise)


def _busy() -> float:
    """Return how many times slower this machine is than an idle one, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def barriers(box: Sandbox) -> frozenset[str]:
    """Return what a sandbox enforces, out of `case.BARRIERS`."""
    open_ = set(gaps(box))
    # What hides the machine's files hides its processes and their memory as well.
    return frozenset(set(BARRIERS) - open_ - ({"signals", "ipc"} if "files" in open_ else set()))
