"""The published suite of attacks (tests/attacks): each is graded, and none gets anything."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from grader.attacks.case import attacks
from grader.attacks.ground import Ground
from grader.attacks.suite import AT_ONCE, Suite, barriers, exercises_of
from grader.attacks.traces import Traces
from grader.sandbox import best
from grader.session import session

SEED = 20_240_229
ATTACKS = {attack.id: attack for attack in attacks()}
BROKERS = ("redis", "rabbitmq")


def bouts(broker):
    """Return (attack, exercise) for all that is run on the broker."""
    return [
        (attack, exercise)
        for exercise in exercises_of(())
        for attack in ATTACKS.values()
        if attack.fits(exercise) and broker in attack.brokers and broker in exercise.brokers
    ]
