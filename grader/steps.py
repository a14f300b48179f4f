"""What the workers' events tell of the tasks of a workflow: which led to which, and when each ran.

Pure functions over a history's events: they can be judged without a broker.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grader.history import instant

ENDED = {"task-succeeded", "task-failed", "task-revoked"}
Events = Iterable[Mapping[str, Any]]


@dataclass
class Step:
    """One task as the events tell of it; times are epoch seconds, by the worker's clock.

    A task that replaced itself has several names and keeps its id.
    """

    id: str
    names: list[str] = field(default_factory=list)
    parent: str | None = None
    received: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)

    @property
    def succeeded(self) -> float | None:
        """When it succeeded."""
        return self.ended.get("task-succeeded")


def steps(events: Events) -> dict[str, Step]:
    """Return the tasks that the events tell of, by id."""
    found: dict[str, Step] = {}
    for event in events:
        id, kind = event.get("uuid"), str(event.get("type"))
        if not isinstance(id, str):
            continue
        step = found.setdefault(id, Step(id))
        at = instant(event.get("timestamp"))
        if kind == "task-received":
            if at < min(step.received, default=float("inf")):
                # A workflow's last task may end under the id of its first one.
                parent = event.get("parent_id")
                step.parent = parent if isinstance(parent, str) and parent != id else None
            step.received.append(at)
            step.names.append(str(event.get("name")).rpartition(".")[2])
        elif kind == "task-started":
            step.starts.append(at)
        elif kind in ENDED:
            step.ended[kind] = at
    return found


def quiet(events: Events, since: float = 0.0) -> bool:
    """Whether every task that a worker received has ended, as far as the events tell.

    Args:
        since: epoch seconds; what was told before is of a worker that is gone. One that was killed
            never told the end of its last task.
    """
    last: dict[str, str] = {}
    for event in events:
        if instant(event.get("timestamp")) < since:
            continue
        kind, id = str(event.get("type")), str(event.get("uuid"))
        # An end counts until the task is received again, given back to the queue.
        if kind == "task-received" or (kind.startswith("task-") and last.get(id) not in ENDED):
            last[id] = kind
    return all(kind in ENDED for kind in last.values())


def ancestors(step: Step, steps: Mapping[str, Step]) -> list[Step]:
    """Return the tasks that led to this one, its parent first."""
    line = [step]
    while (above := steps.get(line[-1].parent or "")) and above not in line:
        line.append(above)
    return line[1:]


def matched(moments: Sequence[float], spans: Sequence[tuple[float, float]]) -> int:
    """Return how many moments can be given a span of their own that holds them."""
    free = sorted(spans, key=lambda span: span[1])
    for moment in sorted(moments):
        holding = next((span for span in free if span[0] <= moment <= span[1]), None)
        if holding:
            free.remove(holding)
    return len(spans) - len(free)


def spans(step: Step) -> list[tuple[float, float]]:
    """Return the time of each execution of a task: from when it was received to when it ended.

    Not from when it started: the worker's main process says that a little later.
    """
    last = max(step.ended.values(), default=float("inf"))
    return list(itertools.pairwise([*sorted(step.received), last]))
