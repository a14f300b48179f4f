"""One call of a task that asks a scripted service: what is sent, what is right, what came of it.

Three tasks of exercise 1_3 ask for a job by its key, one for a page by its URL. All files of its
checks call them through this, so that a check says only how the service answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grader.services.http import Request, Step, delay, fail, ok, refuse
from grader.trail import Trail, trail

if TYPE_CHECKING:
    from grader.lab import Lab

JOBS = ("unreliable_task", "exponential_backoff_task", "custom_retry_task")
PAGE = "fetch_url"
# How many retries each task has.
LIMITS = {JOBS[0]: 3, JOBS[1]: 5, JOBS[2]: 3, PAGE: 5}
# Long for a worker that hurries; short enough to be told soon that nothing comes.
PATIENCE = 10


def word(lab: Lab) -> str:
    """Draw a key; it has no digit, so that none of a log line's numbers comes from it."""
    return "".join(lab.rng.choices("bcdfghjkmnpqrstvwxz", k=10))


class Job:
    """One call of one of the tasks, and the service that it asks.

    Args:
        function: the task; it is called at once.
        steps, then: how the service answers; with a good answer in the end if nothing is said.
        site: the host that a page is asked of.
        key: of the job or page; a new one if none is given.
        named: whether the call is one by keyword.
        retries: how often the message says that the call was tried again already.
    """

    def __init__(
        self,
        lab: Lab,
        function: str,
        *steps: Step,
        then: Step | None = None,
        site: str = "site1",
        key: str = "",
        named: bool = False,
        retries: int = 0,
    ) -> None:
        self.lab, self.function, self.key = lab, function, key or word(lab)
        self.service = lab.http["flaky" if function in JOBS else site]
        self.value = lab.rng.randint(100, 999)
        self.service.script(self.key, *steps, then=then or ok(self.value))
        self.begun, self.since = len(self.service.requests(self.key)), retries
        row, kwargs = ((), self.arguments) if named else (tuple(self.arguments.values()), {})
        self.call = lab.send(function, *row, within=PATIENCE, kwargs=kwargs, retries=retries)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the task is given, by its parameters' names."""
        given: dict[str, dict[str, Any]] = {
            "unreliable_task": {"key": self.key},
            "exponential_backoff_task": {"data": [self.value, -0.75], "key": self.key},
            "custom_retry_task": {"task_data": {"key": self.key, "note": [1, "a"]}},
            "fetch_url": {"url": self.service.address(self.key)},
        }
        return given[self.function]

    @property
    def right(self) -> Any:
        """What the task returns once the service has answered as usual."""
        length = len(json.dumps({"value": self.value}))
        url = self.service.address(self.key)
        return {
            "unreliable_task": self.value,
            "exponential_backoff_task": [self.value * 2, -1.5],
            "custom_retry_task": {"value": self.value},
            "fetch_url": {"status_code": 200, "content_length": length, "url": url},
        }[self.function]

    @property
    def requests(self) -> list[Request]:
        """What the service got for this call."""
        return self.service.requests(self.key)[self.begun :]

    @property
    def trail(self) -> Trail:
        """What became of the call."""
        return trail(self.call, self.requests, self.lab.history.messages, self.since)

    @property
    def ending(self) -> str:
        """How the call ended, in a few words."""
        reply = self.call.reply
        if reply is None:
            return "-"
        return f"{reply.state} {reply.error_type} {reply.error_message[:90]}".strip()


def finish(lab: Lab, jobs: Sequence[Job]) -> Sequence[Job]:
    """Wait for the replies of all jobs and return them."""
    lab.finish([job.call for job in jobs])
    return jobs


def retried(lab: Lab, jobs: Sequence[Job]) -> int:
    """Return for how many of the jobs a retry was published; cheap enough to be asked often."""
    sent = {job.call.id: job.since for job in jobs}
    again = {m.id for m in lab.history.messages if m.retries > sent.get(m.id, m.retries)}
    return len(again)


def spent(lab: Lab) -> list[Job]:
    """Let each task fail until its retries are spent; return the jobs, the same ones each time."""
    return lab.once("spent", lambda: _spend(lab))


def _spend(lab: Lab) -> list[Job]:
    """Exhaust every task; the last attempt meets another status than those before it.

    One that never gives up is let off after forty more requests.
    """
    last = fail(503, times=40)
    rows = [(function, (fail(500, times=LIMITS[function]), last)) for function in JOBS * 3]
    return _exhaust(lab, rows, "site3", fail(500), last)


def unheard(lab: Lab) -> list[Job]:
    """Return a job of each task whose service never answers at all, the same ones each time."""
    rows = [(function, (refuse(times=40),)) for function in JOBS]
    return lab.once("unheard", lambda: _exhaust(lab, rows, "site5", refuse(), refuse(times=40)))


def _exhaust(
    lab: Lab, rows: Sequence[tuple[str, tuple[Step, ...]]], site: str, step: Step, last: Step
) -> list[Job]:
    """Exhaust job tasks as scripted, and the page's task on a site by `step` and at last `last`."""
    with lab.tapped():
        jobs = [Job(lab, function, *steps) for function, steps in rows]
        # A circuit breaker may open after five failures of a host in a row. So the third answer is
        # held back until another call has got a good one from the same host.
        page = Job(lab, PAGE, step, step, delay(1.5, step), step, step, last, site=site)
        lab.until(lambda: len(page.requests) >= 3 or page.call.reply, within=PATIENCE)
        finish(lab, [Job(lab, PAGE, site=site)])
        finish(lab, [*jobs, page])
        # The last four failed in a row; the next check may fail four more times there.
        finish(lab, [Job(lab, PAGE, site=site)])
    return [*jobs, page]
