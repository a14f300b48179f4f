"""Random schedules of orders and faults: drawn from a seed, printed, and shrunk when they fail.

A schedule is plain data, so that the same one can be played again, in whole or in part. All faults
are within what the contract allows: each ends, so every order can come to its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

FORWARD = (
    ("user", "validate"),
    ("inventory", "check"),
    ("payment", "validate"),
    ("payment", "process"),
    ("inventory", "update"),
    ("order", "create"),
    ("notification", "send"),
    ("analytics", "track"),
)
BACKWARD = (("payment", "refund"), ("inventory", "release"), ("order", "mark_failed"))
WRITES = (("payment", "process"), ("inventory", "update"), ("order", "create"))
# name -> how often it is drawn. A "slow" answer comes after the client has given up.
FAULTS = {
    "lost": 5,
    "malformed": 2,
    "status 500": 2,
    "status 503": 3,
    "status 429": 1,
    "refuse": 3,
    "flap": 1,
    "latency": 4,
    "slow": 1,
}
# The tries that a forward call may have; so many faults in a row defeat any.
TRIES = 6
METHODS = {"credit_card": 30, "paypal": 6, "empty_card": 3, "expired_card": 1}
USERS = {"user": 38, "blocked": 1, "unknown": 1}


@dataclass(frozen=True)
class Trouble:
    """Faults that the requests of one order on one route meet, one after the other."""

    service: str
    route: str
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.service} {self.route}: {', '.join(self.faults)}"


@dataclass(frozen=True)
class Plan:
    """One order of a schedule.

    Attributes:
        number: its place in the schedule.
        user, method: what it is ordered by and paid with.
        scarce: it wants an item of which there is not enough for all.
        twice: it is sent again while it is on its way.
        troubles: what it meets.
    """

    number: int
    user: str = "user"
    method: str = "credit_card"
    scarce: bool = False
    twice: bool = False
    troubles: tuple[Trouble, ...] = ()

    @property
    def goes_well(self) -> bool:
        """Whether nothing keeps it from being completed at once, and nothing goes wrong."""
        forward = any((each.service, each.route) in FORWARD for each in self.troubles)
        return (self.user, self.method) == ("user", "credit_card") and not (self.scarce or forward)

    def __str__(self) -> str:
        words = [self.user, self.method]
        words += ["scarce item"] if self.scarce else []
        words += ["sent twice"] if self.twice else []
        return f"order {self.number} ({', '.join(words)}): " + (
            "; ".join(map(str, self.troubles)) or "no fault"
        )


def draw(rng: random.Random, orders: int = 40, kills: int = 5) -> list[Plan]:
    """Draw a schedule.

    Args:
        orders: how many orders.
        kills: how many requests have the process that sent them killed.
    """
    plans = [_plan(rng, number) for number in range(1, orders + 1)]
    for index in rng.sample(range(orders), min(kills, orders)):
        service, route = rng.choice(FORWARD[:7])
        kind = rng.choice(("kill", "kill", "kill before"))
        plans[index] = replace(
            plans[index],
            method="credit_card",
            user="user",
            troubles=(Trouble(service, route, (kind,)),),
        )
    return plans


def _plan(rng: random.Random, number: int) -> Plan:
    troubles = [Trouble(*place, _faults(rng, 2)) for place in FORWARD if rng.random() < 0.08]
    if rng.random() < 0.12:
        # Every answer of one write is lost or withheld: the order fails, and what it did is undone.
        kind = rng.choice(("lost", "status 503", "malformed"))
        troubles = [t for t in troubles if (t.service, t.route) not in WRITES]
        troubles.append(Trouble(*rng.choice(WRITES), (kind,) * TRIES))
    troubles += [Trouble(*place, _faults(rng, 4)) for place in BACKWARD if rng.random() < 0.3]
    return Plan(
        number,
        _draw(rng, USERS),
        _draw(rng, METHODS),
        scarce=rng.random() < 0.2,
        twice=rng.random() < 0.15,
        troubles=tuple(troubles),
    )


def _faults(rng: random.Random, most: int) -> tuple[str, ...]:
    return tuple(_draw(rng, FAULTS) for _ in range(rng.randint(1, most)))


def _draw(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def shrink(
    plans: Sequence[Plan],
    suspects: Sequence[int],
    fails: Callable[[Sequence[Plan]], bool],
    tries: int = 8,
) -> list[Plan]:
    """Return the shortest part of a schedule found that still fails.

    Args:
        plans: a schedule that failed.
        suspects: the numbers of its orders that ended badly.
        fails: plays a schedule and says whether it fails.
        tries: how often it may be played.
    """
    best = list(plans)
    for candidate in _candidates(best, suspects):
        if tries > 0 and len(candidate) < len(best):
            tries -= 1
            best = candidate if fails(candidate) else best
    while tries > 0 and (smaller := _without_one(best)) != best:
        tries -= 1
        if not fails(smaller):
            break
        best = smaller
    return best


def _candidates(plans: Sequence[Plan], suspects: Sequence[int]) -> list[list[Plan]]:
    """Return the suspects alone, then each of the first three of them, the smallest last."""
    chosen = [plan for plan in plans if plan.number in suspects]
    return [chosen, *([plan] for plan in chosen[:3])]


def _without_one(plans: Sequence[Plan]) -> list[Plan]:
    """Return the schedule without the last trouble of the order that has most of them."""
    worst = max(plans, key=lambda plan: len(plan.troubles))
    if len(worst.troubles) < 2:
        return list(plans)
    smaller = replace(worst, troubles=worst.troubles[:-1])
    return [smaller if plan is worst else plan for plan in plans]


def text(plans: Sequence[Plan]) -> str:
    """Return a schedule in words, a line an order."""
    return "\n".join(map(str, plans))
