"""One call of the grader, by whichever door: a home, a stack, a seed, and an orderly end."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from typing import TypeVar

from grader.errors import NoBroker
from grader.exercise import BROKERS, Exercise
from grader.home import Home, sweep
from grader.process import stopped
from grader.stack.provider import Stack

T = TypeVar("T")


@contextlib.contextmanager
def session(stack: str = "") -> Iterator[Stack]:
    """Sweep what dead runs left, open a home and a stack, and close both whatever happens.

    SIGTERM and SIGHUP end the call the way Ctrl-C does, so that nothing is left behind.
    """
    with interruptible(), quiet_session(stack) as opened:
        yield opened


@contextlib.contextmanager
def quiet_session(stack: str = "") -> Iterator[Stack]:
    """Do as `session` does in a process whose signals are somebody else's, say a pool's child."""
    sweep()
    with Home() as home, Stack(home, stack) as opened:
        yield opened


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end what runs inside the way Ctrl-C does."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    stopped.clear()

    def interrupt(number: int, frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    try:
        before = [(number, signal.signal(number, interrupt)) for number in numbers]
    except ValueError:  # not the main thread: the owner of the main thread sees to it
        before = []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def as_they_end(futures: Iterable[Future[T]], ahead: int | None = None) -> Iterator[Future[T]]:
    """Yield each future once it is done; an interrupt that Python lost ends the wait as well.

    Args:
        ahead: how many are taken from `futures` before one is done; all by default.

    Raises:
        KeyboardInterrupt: the call was interrupted.
    """
    source = iter(futures)
    pending = set(islice(source, ahead))
    while pending:
        done, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
        if stopped.is_set():
            raise KeyboardInterrupt
        yield from done
        pending |= set(islice(source, len(done)))


def choose_brokers(
    exercise: Exercise, wanted: str, stack: Stack, required: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the brokers to run on, and those wanted that this machine lacks.

    Args:
        wanted: "redis", "rabbitmq", "all", or "" for all that the exercise names.
        required: brokers whose absence is an error.

    Raises:
        UsageError: the exercise does not run on the wanted broker.
        NoBroker: a required broker, or every wanted one, is not to be had.
    """
    asked = exercise.asked(wanted)
    missing = stack.missing(asked)
    if set(missing) & set(required) or len(missing) == len(asked):
        raise NoBroker("no_rabbitmq")
    stack.prepare(tuple(b for b in asked if b not in missing))
    return tuple(b for b in BROKERS if b in asked and b not in missing), missing


def draw_seed() -> int:
    """Return a new seed: it is printed, and `--seed` repeats it."""
    return random.SystemRandom().randrange(1, 1_000_000)
