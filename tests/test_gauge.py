"""grader/gauge.py: what a process holds, read from outside."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from grader import gauge
from grader.errors import SubmissionFault

PROGRAM = """
import os, sys
kept = []
for line in sys.stdin:
    word, amount = line.split()
    if word == "hold":
        kept.append(b"x" * (int(amount) * 1024))
    elif word == "open":
        kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(int(amount)))
    elif word == "drop":
        kept.clear()
    elif word == "work":
        sum(range(int(amount)))
    print("done", flush=True)
"""


@pytest.fixture
def other():
    """A process that does what it is told, and the way to tell it."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:

        def tell(words):
            child.stdin.write(words + "\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"

        tell("work 1")
        yield psutil.Process(child.pid), tell
        child.kill()


def test_memory_that_is_kept_is_seen(other):
    """A process that keeps four MiB more is read with four MiB more."""
    process, tell = other
    before = gauge.read(process, 0)

    tell("hold 4096")

    assert 3900 < gauge.read(process, 1).kib - before.kib < 4600


def test_descriptors_are_counted(other):
    """Every file that a process leaves open is counted."""
    process, tell = other
    before = gauge.read(process, 0)

    tell("open 7")

    assert gauge.read(process, 1).descriptors - before.descriptors == 7


def test_the_highest_mark_stays(other):
    """What a process once had is remembered after it was given back."""
    process, tell = other
    before = gauge.resident(process)

    tell("hold 65536")
    tell("drop 0")

    assert gauge.high_water(process) - before > 60


def test_an_exact_system_tells_each_page():
    """What the reading itself takes at first is no step of the system's."""
    pages = [20_000 + 4 * n for n in range(200)]

    assert gauge.largest_step([19_000, *pages]) == 4


@pytest.mark.parametrize("lag", [32, 64])
def test_a_system_that_adds_up_now_and_then_is_known_by_its_steps(lag):
    """Pages that are told some at a time are no exact account, however they began."""
    told = [20_000 + 4 * (n // lag * lag) for n in range(200)]

    assert gauge.largest_step(told) == 4 * lag > gauge.EXACT_KIB


@pytest.mark.parametrize("told", [[], [20_000] * 200, [20_000] * 100 + [20_400] * 100])
def test_a_system_that_hardly_tells_is_not_exact(told):
    """Without a second rise nothing says that the steps are small."""
    assert gauge.largest_step(told) > gauge.EXACT_KIB


def test_this_system_is_exact_or_not():
    """A process of the grader's own finds it out, and the same each time."""
    found = gauge.exact()
    gauge.exact.cache_clear()

    assert gauge.exact() is found


def test_a_process_knows_itself_by_a_pid(other):
    """Where nothing keeps the two apart, that is the pid by which it is known outside."""
    process, _ = other

    assert gauge.own_pid(process) == process.pid


def test_processor_time_grows_with_work(other):
    """Work costs processor time, and waiting costs next to none."""
    process, tell = other
    before = gauge.processor(process)

    tell("work 3000000")

    assert gauge.processor(process) > before


def test_a_process_that_is_gone_is_the_submissions_affair(other):
    """Reading a process that has ended names the pid."""
    process, _ = other
    process.kill()
    process.wait()

    with pytest.raises(SubmissionFault, match=str(process.pid)):
        gauge.read(process, 0)
