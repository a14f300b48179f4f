"""Grades several orders (an exercise and a submission each), overlapping where there are cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from grader.errors import BadSubmission
from grader.exercise import Exercise
from grader.extras import supply
from grader.isolation import demand, described, isolated
from grader.runner import grade
from grader.sandbox import best
from grader.session import as_they_end, choose_brokers, draw_seed, session
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.verdict import Finding, Result
from grader.words import Text

# Checks wait more than they compute, so two exercises share two cores well.
AT_ONCE = 2
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What to grade: a submission's path against an exercise."""

    exercise: Exercise
    path: Path


def grade_all(
    orders: Sequence[Order],
    *,
    broker: str,
    stack: str,
    required: Sequence[str],
    seed: int | None,
    lang: str,
    tell: Tell,
    strict: bool = False,
    unsafe: bool = False,
) -> list[Result]:
    """Grade every order and return the results in the same sequence.

    Args:
        broker: "redis", "rabbitmq" or "all".
        stack: a provider's name, "" for the usual order.
        required: brokers whose absence is an error.
        seed: of all drawn inputs; a new one is drawn for None.
        tell: gets a line for each criterion as it becomes known.
        strict: refuse where this machine can't hold strangers' work.
        unsafe: don't refuse even so.

    Raises:
        LabFault: strict, and this machine can't hold strangers' work.
        UsageError: an order that can't be carried out; nothing is graded then.
        NoBroker: a required broker is missing.
    """
    if strict:
        demand(best(), unsafe)
    submissions = [Submission.at(order.path) for order in orders]
    drawn = draw_seed() if seed is None else seed
    supply(dict.fromkeys(e for order in orders for e in order.exercise.extras), tell, lang)
    with session(stack) as live, ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [
            pool.submit(_one, order, work, broker, live, required, drawn, lang, tell)
            for order, work in zip(orders, submissions, strict=True)
        ]
        try:
            for future in as_they_end(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            live.home.close()  # what the threads wait for ends, and nothing new starts
            raise
    return [future.result() for future in futures]


def _one(
    order: Order,
    work: Submission,
    broker: str,
    live: Stack,
    required: Sequence[str],
    seed: int,
    lang: str,
    tell: Tell,
) -> Result:
    brokers, missing = choose_brokers(order.exercise, broker, live, required)
    try:
        result = grade(
            order.exercise,
            work,
            brokers,
            live,
            seed,
            progress=lambda finding: tell(line(order.exercise, finding, lang)),
        )
    except BadSubmission as error:
        # The others' results stand; this one's document says why it has none.
        return ungradable(order.exercise.id, str(order.path), seed, error.text)
    return replace(result, brokers_not_run=missing)


def ungradable(exercise: str, shown: str, seed: int, note: Text) -> Result:
    """Return the result of a submission that could not be graded, for the reason in `note`."""
    box = best()
    return Result(
        exercise,
        shown,
        (),
        seed,
        (),
        note=note,
        refused=True,
        isolation=described(box),
        unsafe=not isolated(box),
    )


def line(exercise: Exercise, finding: Finding, lang: str) -> str:
    """Return the progress line of one finding."""
    word = Text.of(f"report_{finding.verdict}").render(lang)
    return f"{exercise.id}  {finding.broker:<8}  {finding.id:<28}  {word}"
