"""grader/passage.py: how a simulated time passes."""

from __future__ import annotations

import pytest

from grader.passage import HOUR, LOOKS, Passage

BEGIN = 1_800_000_000.0 - 1_800_000_000.0 % HOUR + 453


def passage(hours=3.0, fine=None, **more):
    """Return a passage of so many hours; all of it is fine, if nothing else is said."""
    legs = [(BEGIN, BEGIN + hours * HOUR)]
    return Passage(list(legs), legs if fine is None else fine, **more)


def wake_ups(time, asked):
    """Sleep to the end, always for so long; return the seconds into the hour at each wake-up."""
    found = []
    while not time.over:
        time.rest(asked)
        found.append(round(time.now % HOUR))
    return found[:-1]


def test_who_knows_when_it_is_needed_is_woken_then():
    """Where it is fine a long sleep is as long as it was asked for."""
    assert wake_ups(passage(0.5), 400.0) == [853, 1253, 1653, 2053]


def test_who_looks_around_is_woken_for_what_counts():
    """Where it is fine short sleeps are cut short to the multiples of five minutes."""
    seen = wake_ups(passage(1), 5.0)

    assert {0, 900, 2700} <= set(seen)
    assert len(seen) < 60


def test_elsewhere_full_hours_count():
    """Where it is not fine only few wake-ups are left, one of them on the hour."""
    seen = wake_ups(passage(4, fine=[]), 5.0)

    assert seen.count(0) == 4 and len(seen) < 16


def test_no_wake_up_is_left_out_of_the_whole():
    """Where it is whole every second that is asked for is lived through."""
    time = passage(0.1, whole=[(BEGIN, BEGIN + HOUR)])

    assert len(wake_ups(time, 1.0)) == 359


def test_what_was_sent_may_be_due_again():
    """One of the periods after a sending counts as well."""
    time = passage(1, periods=(420.0,))
    time.sent("it")
    seen = wake_ups(time, 5.0)

    assert (453 + 420) % 3600 in seen


def test_real_seconds_are_waited():
    """While real seconds are left, each sleep takes as long as on the wall; nothing is left out."""
    time = passage(real=6.0)

    assert time.rest(5.0) == 5.0 and time.now == BEGIN + 5
    assert time.rest(300.0) == 1.0 and time.real == 0


def test_a_pace_makes_waits_shorter():
    """With a pace the waits are so many times shorter, those that are left out too."""
    time = passage(pace=60.0)

    assert time.rest(120.0) == 2.0
    waited, before = time.rest(30.0), time.now
    assert waited == pytest.approx((before - BEGIN - 120.0) / 60.0)


def test_legs_follow_one_another():
    """After a leg it is the beginning of the next, after the last it is over."""
    later = BEGIN + 100 * HOUR
    legs = [(BEGIN, BEGIN + 60), (later, later + 60)]
    time = Passage(list(legs), legs)

    time.rest(100.0)
    assert time.now == later and not time.over
    time.rest(100.0)
    assert time.over


@pytest.mark.parametrize(("said", "seen"), [(-5.0, 0.0), (2.0, 2.0), (1e300, LOOKS)])
def test_a_beat_does_not_set_its_clock(said, seen):
    """What a beat says of the time is believed within some seconds, forwards."""
    time = passage()

    assert time.look(BEGIN + said) == BEGIN + seen


@pytest.mark.parametrize("asked", [-1.0, float("nan")])
def test_no_sleep_takes_the_time_back(asked):
    """A sleep of less than nothing is none."""
    time = passage(whole=[(BEGIN, BEGIN + HOUR)])
    time.rest(asked)

    assert time.now == BEGIN
