"""grader/faults.py: faults on small processes of our own."""

from __future__ import annotations

import json
import os
import signal
import sys

import psutil
import pytest

from grader import faults
from grader.errors import LabFault
from grader.home import Home
from grader.process import spawn, wait_until

# A process with two children; each prints its own dot as long as it runs.
FAMILY = """
import os, signal, sys, time
children = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        break
    children.append(pid)
print("born", flush=True)
while True:
    time.sleep(0.001)
    os.write(1, b"." if pid else b"c")
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("born", flush=True)
while True:
    time.sleep(1)
"""
ALONE = "print('born', flush=True)\nimport time\nwhile True: time.sleep(1)"


def late(what: str) -> AssertionError:
    return AssertionError(f"too late: {what}")


@pytest.fixture
def home():
    """A run's folder for the ledger."""
    with Home("test") as home:
        yield home


@pytest.fixture
def start(home):
    """Start a script; all that was started is ended with the test."""
    started = []

    def starting(script: str, births: int = 1):
        command = [sys.executable, "-c", script]
        child = spawn(command, env=dict(os.environ), cwd=home.folder, ledger=home.ledger)
        started.append(child)
        wait_until(lambda: child.output.text.count("born") >= births, 30, lambda: late("birth"))
        return child

    yield starting
    for child in started:
        child.end()


@pytest.fixture
def family(start):
    """A main process and its two children, all at work."""
    return start(FAMILY, births=3)


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_one_child_is_killed_and_the_others_live(family):
    """kill_child ends the oldest child only, returns it and notes its pid and start time."""
    main, first, second = family.family
    noted = []

    victim = faults.kill_child(main, noted)

    assert ended(victim)
    assert victim in (first, second)
    assert family.alive and sum(not ended(child) for child in (first, second)) == 1
    (row,) = noted
    assert (row["kind"], row["target"][0]["pid"]) == ("kill_child", victim.pid)
    assert json.loads(json.dumps(noted)) == noted


def test_the_child_to_kill_can_be_named(family):
    """kill_child kills the child it is given."""
    main, _, second = family.family

    assert faults.kill_child(main, [], second) == second

    assert ended(second)


def test_children_are_killed_until_none_lives(family):
    """A dead child that nobody has reaped is not killed twice; without any left, it is a fault."""
    main, *children = family.family
    noted = []

    victims = [faults.kill_child(main, noted), faults.kill_child(main, noted)]

    assert {each.pid for each in victims} == {each.pid for each in children}
    with pytest.raises(LabFault, match="has none alive"):
        faults.kill_child(main, noted)
    assert len(noted) == 2


def test_a_child_that_is_gone_can_not_be_killed(family):
    """A named child that has ended is the lab's fault, and nothing is noted."""
    main, first, _ = family.family
    noted = []
    first.kill()
    wait_until(lambda: ended(first), 10, lambda: late("death"))

    with pytest.raises(LabFault, match="kill_child"):
        faults.kill_child(main, noted, first)
    assert noted == []


def test_a_worker_that_is_gone_has_no_child_to_kill(start):
    """kill_child on a main process that has ended and was reaped is the lab's fault."""
    child = start(ALONE)
    main = psutil.Process(child.pid)
    child.end()

    with pytest.raises(LabFault, match="none alive"):
        faults.kill_child(main, [])


def test_terminate_reaches_the_main_process(start):
    """terminate sends SIGTERM, which the process may answer in its own way."""
    child, noted = start(POLITE), []

    faults.terminate(psutil.Process(child.pid), noted)

    assert wait_until(lambda: child.exit_code, 10, lambda: late("exit")) == 7
    assert [row["kind"] for row in noted] == ["terminate"]


def test_terminate_of_a_process_that_is_gone_is_a_fault(start):
    """Nothing can be learnt from a process that ended before it was asked to."""
    child, noted = start(ALONE), []
    main = psutil.Process(child.pid)
    child.end()

    with pytest.raises(LabFault, match="terminate"):
        faults.terminate(main, noted)
    assert noted == []


def test_kill_all_ends_the_whole_family(family):
    """kill_all leaves nobody, and a second time does nothing and notes nothing."""
    members, noted = family.family, []

    faults.kill_all(members, noted)

    assert all(ended(each) for each in members)
    assert family.process.wait(10) == -signal.SIGKILL
    faults.kill_all(members, noted)
    assert [len(row["target"]) for row in noted] == [3]


def test_kill_all_passes_over_who_is_gone(family):
    """One that has died already does not keep the others alive."""
    members, noted = family.family, []
    members[1].kill()
    wait_until(lambda: ended(members[1]), 10, lambda: late("death"))

    faults.kill_all(members, noted)

    assert all(ended(each) for each in members)
    assert members[1].pid not in [target["pid"] for target in noted[0]["target"]]


def test_a_frozen_family_does_nothing(family, start):
    """While another process is born inside the block, no member makes a step; then all go on."""
    main, *children = family.family
    noted = []

    with faults.freeze([main], noted) as still:
        assert {each.pid for each in still} == {main.pid, *(each.pid for each in children)}
        assert {each.status() for each in still} == {psutil.STATUS_STOPPED}
        before = [steps(each) for each in still]
        start(ALONE)
        # One switch at most: the one that put it to rest.
        assert all(steps(each) - n <= 1 for each, n in zip(still, before, strict=True))
    size = family.output.size

    wait_until(lambda: family.output.size > size + 100, 10, lambda: late("thaw"))
    wait_until(
        lambda: not any(each.status() == psutil.STATUS_STOPPED for each in still),
        10,
        lambda: late("thaw"),
    )
    assert [row["kind"] for row in noted] == ["freeze", "thaw"]
    assert noted[0]["at"] <= noted[1]["at"] and len(noted[0]["target"]) == 3


def steps(process: psutil.Process) -> int:
    """The times the process was switched in or out: it grows with every step it makes."""
    return sum(process.num_ctx_switches())


def test_the_family_thaws_after_an_error(family):
    """An exception in the block is passed on, and everybody runs again."""
    members, noted = family.family, []

    with pytest.raises(KeyError), faults.freeze(members, noted):
        raise KeyError("a check that failed")

    wait_until(
        lambda: not any(each.status() == psutil.STATUS_STOPPED for each in members),
        10,
        lambda: late("thaw"),
    )
    assert [row["kind"] for row in noted] == ["freeze", "thaw"]


def test_who_dies_frozen_is_passed_over(family):
    """SIGKILL works on a frozen process, and the thaw bears with it."""
    main, *children = family.family

    with faults.freeze([main], []):
        faults.kill_all([main], [])
        assert family.process.wait(10) == -signal.SIGKILL

    wait_until(
        lambda: not any(each.status() == psutil.STATUS_STOPPED for each in children),
        10,
        lambda: late("thaw"),
    )
    faults.kill_all(children, [])


def test_who_is_gone_is_not_frozen(family):
    """A member that has died is passed over; the rest stands still."""
    main, first, second = family.family
    first.kill()
    wait_until(lambda: ended(first), 10, lambda: late("death"))

    with faults.freeze([main, first, second], []) as still:
        assert {each.pid for each in still} == {main.pid, second.pid}


def test_a_family_that_is_gone_can_not_be_frozen(family):
    """With nobody left to freeze the block is never entered: the lab's fault."""
    members, noted = family.family, []
    family.end()
    wait_until(lambda: all(ended(each) for each in members), 10, lambda: late("death"))

    with pytest.raises(LabFault, match="could not freeze"), faults.freeze(members, noted):
        raise AssertionError("entered")
    assert noted == []


def test_thaw_alone_wakes_and_is_harmless(family):
    """thaw wakes what was stopped by other means, leaves the running alone, bears the gone."""
    members = family.family
    members[0].suspend()

    faults.thaw(members)

    size = family.output.size
    wait_until(lambda: family.output.size > size + 100, 10, lambda: late("thaw"))
    family.end()
    faults.thaw(members)


def test_a_pid_that_was_given_away_is_not_hit(start):
    """A process object whose start time is another's kills nobody."""
    child = start(ALONE)
    stranger = psutil.Process(child.pid)
    stranger._ident = (child.pid, 1.0)
    stranger._create_time = 1.0

    faults.kill_all([stranger], [])
    with pytest.raises(LabFault):
        faults.terminate(stranger, [])
    faults.thaw([stranger])

    assert child.alive
