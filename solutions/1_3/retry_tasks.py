"""Tasks that try again: when it helps, after the right wait, and not for ever.

From top to bottom: the app, what an answer of a service means, what all processes know of a host
(circuit breaker and retry budget), the base class that all retries go through, and the tasks.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
import uuid
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
from celery import Celery, Task
from celery.exceptions import Ignore, Retry
from celery.utils.log import get_task_logger
from kombu.utils.json import dumps

# Defaults for a machine of one's own; CELERY_BROKER_URL and CELERY_RESULT_BACKEND come first.
app = Celery(
    "retry_tasks",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
log = get_task_logger(__name__)


# ------------------------------------------------------------------ what the service's answer means


class ServiceError(Exception):
    """The service did not do its part. Made of one text, so that any client can rebuild it."""


class Unavailable(ServiceError):
    """It may well work in a moment: this is what retries are for."""


class Refused(ServiceError):
    """It will be refused again as often as it is asked: 404 does not get better by waiting."""


# To connect, and between two bytes of the answer. Without one, a service that accepts a connection
# and then says nothing holds a worker process for ever.
TIMEOUT = (3.05, 9)

# Named one by one: their common base class also stands for a URL that can't be read, which is a
# mistake of the caller's. ChunkedEncodingError is what a body that ends early is called.
PASSING = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


def ask(url: str) -> requests.Response:
    """GET a URL, exactly once; Unavailable where there was no whole answer.

    `requests` makes no retries of its own unless an adapter is told to. It must stay so: four
    hidden ones inside each of four attempts are sixteen requests.
    """
    try:
        return requests.get(url, timeout=TIMEOUT)
    except PASSING as error:
        # From None: the text says it all, and the traceback in the backend stays short.
        raise Unavailable(f"no answer from {url}: {type(error).__name__}: {error}") from None


def status_of(response: requests.Response) -> str:
    """Return "503 Service Unavailable", for an error's text."""
    return f"{response.status_code} {response.reason}"


def job_url(key: str) -> str:
    """Return the address of a job."""
    # Read when it is needed: a worker's environment is not that of who imported this first.
    return f"{os.environ['LAB_FLAKY_URL']}/jobs/{requests.utils.quote(key, safe='')}"


def ask_job(key: str) -> requests.Response:
    """GET a job that must be answered with 200; whatever else comes is worth a retry."""
    response = ask(job_url(key))
    if response.status_code != 200:
        raise Unavailable(f"job {key} was answered with {status_of(response)}")
    return response


# ------------------------------------------------------------- what all processes know of a host

OPENS_AFTER = 5
OPEN_SECONDS = 30
# A trial whose process was killed must not keep the circuit open for ever.
TRIAL_SECONDS = 20
MINUTE = 60
BUDGET_FROM = 50
BUDGET_SHARE = 0.2


class Host:
    """The circuit breaker and the retry budget of one host:port, kept in the backend's Redis.

    Kept there because a worker is many processes: what one has learnt of a host, all must know.
    """

    def __init__(self, url: str) -> None:
        self.key = f"retry_tasks:host:{urlsplit(url).netloc}"
        self.redis = app.backend.client

    def closed_in(self) -> float:
        """Return 0 where a request may be sent now, else the seconds to put it off for."""
        until = self.redis.get(f"{self.key}:open_until")
        if until is None:
            return 0.0
        left = float(until) - time.time()
        if left > 0:
            return left
        # The time is over. Whoever sets this key tries; the others look again a little later.
        mine = self.redis.set(f"{self.key}:trial", 1, nx=True, ex=TRIAL_SECONDS)
        return 0.0 if mine else 1.0

    def sent(self) -> None:
        """Note a request."""
        self._note("requests")

    def answered(self) -> None:
        """Note a good answer: the circuit is closed, whatever it was before."""
        self.redis.delete(*(f"{self.key}:{name}" for name in ("failures", "open_until", "trial")))

    def failed(self) -> None:
        """Note a failure: the fifth in a row, or a failed trial, opens the circuit."""
        failures = self.redis.incr(f"{self.key}:failures")
        if failures >= OPENS_AFTER:
            self.redis.set(f"{self.key}:open_until", time.time() + OPEN_SECONDS)
            self.redis.delete(f"{self.key}:trial")

    def grants_retry(self) -> bool:
        """Take one retry out of the budget; False where there is none left.

        Taken first and given back: two processes that look first would both find the last one.
        """
        taken, retries = self._note("retries")
        requests_sent = self._count("requests")
        if requests_sent < BUDGET_FROM or retries <= BUDGET_SHARE * requests_sent:
            return True
        self.redis.zrem(f"{self.key}:retries", taken)
        return False

    def _note(self, what: str) -> tuple[str, int]:
        """Add one to the last minute's; return its name and how many there are now."""
        name = uuid.uuid4().hex
        self.redis.zadd(f"{self.key}:{what}", {name: time.time()})
        self.redis.expire(f"{self.key}:{what}", MINUTE)
        return name, self._count(what)

    def _count(self, what: str) -> int:
        self.redis.zremrangebyscore(f"{self.key}:{what}", 0, time.time() - MINUTE)
        return self.redis.zcard(f"{self.key}:{what}")


# ------------------------------------------------------------------------------------ trying again

STATS = "retry_tasks:stats"


class Patient(Task):
    """A task that fails for passing reasons. `max_retries` says how often it is tried again."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one attempt, and count how the task ended if it did."""
        try:
            result = super().__call__(*args, **kwargs)
        except (Retry, Ignore):
            raise  # there is more to come
        except Exception as error:
            self.count("exhausted" if isinstance(error, Unavailable) else "permanent")
            raise
        self.count("after_retries" if self.request.retries else "first_try")
        return result

    def count(self, ending: str) -> None:
        """Count one ending: a single command of Redis, so no process overwrites another's."""
        app.backend.client.hincrby(STATS, f"{self.name} {ending}", 1)

    def again(self, error: Exception, wait: float) -> NoReturn:
        """Have this task run again after `wait` seconds, or end with `error` if it ran enough."""
        attempt = self.request.retries + 1
        if attempt <= self.max_retries:
            log.warning("attempt %d failed, next one in %.4g s: %s", attempt, wait, error)
        # With `exc` the task ends with the error that it met. Without it a caller would read
        # MaxRetriesExceededError, which says nothing of the cause. The worker is free meanwhile:
        # this publishes a message that is due later and leaves the task by an exception. That is
        # why no call of it may stand in a `try` that catches Exception.
        raise self.retry(exc=error, countdown=wait)

    def put_off(self, wait: float) -> NoReturn:
        """Have this very attempt run later: it was not made, and uses up no retry."""
        log.info("put off for %.4g s without a request", wait)
        self.request.retries -= 1  # which retry() adds again
        raise self.retry(countdown=wait)


# --------------------------------------------------------------------------------------- the tasks


@app.task(bind=True, base=Patient, max_retries=3)
def unreliable_task(self: Patient, key: str) -> Any:
    """Return the value of a job; 5xx and lost connections are retried, 2 s apart."""
    try:
        response = ask(job_url(key))
        if response.status_code >= 500:
            raise Unavailable(f"job {key} was answered with {status_of(response)}")
    except Unavailable as error:
        self.again(error, 2)
    if response.status_code >= 400:
        raise Refused(f"job {key} was answered with {status_of(response)}")
    return response.json()["value"]


LONGEST_BACKOFF = 8


def full_jitter(retries: int) -> float:
    """Draw a wait of up to 1, 2, 4, 8, 8 s.

    The whole range is drawn from. Clients that all lost the same service at the same moment would
    otherwise come back together, and together again. The module's own generator is seeded anew in
    each process of the pool; an instance of our own would be copied into all of them.
    """
    return random.uniform(0, min(LONGEST_BACKOFF, 2**retries))


def asked_to_wait(response: requests.Response) -> float:
    """Return the seconds that Retry-After asks for; 0 where there is none that makes sense."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    if moment.tzinfo is None:  # "-0000" is UTC of an unknown place
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Fetching(Patient):
    """A task whose host has a circuit breaker and a retry budget."""

    def fetch_again(self, host: Host, error: Exception, wait: float) -> NoReturn:
        """Note the host's failure, and try again if the budget has a retry left."""
        host.failed()
        if self.request.retries < self.max_retries and not host.grants_retry():
            raise error
        self.again(error, wait)


@app.task(bind=True, base=Fetching, max_retries=5)
def fetch_url(self: Fetching, url: str) -> dict[str, Any]:
    """Fetch a page and say what came."""
    host = Host(url)
    if wait := host.closed_in():
        self.put_off(wait)
    backoff = full_jitter(self.request.retries)
    try:
        host.sent()
        response = ask(url)
    except Unavailable as error:
        self.fetch_again(host, error, backoff)
    status = response.status_code
    if status == 429 or status >= 500:
        error = Unavailable(f"{url} was answered with {status_of(response)}")
        # On top of what was asked for, not instead of it: everybody was told the same moment.
        self.fetch_again(host, error, backoff + asked_to_wait(response))
    host.answered()
    if status >= 400:
        raise Refused(f"{url} was answered with {status_of(response)}")
    # `content` is the body as it was before it was compressed for the way.
    return {"status_code": status, "content_length": len(response.content), "url": url}


def numbers(data: object) -> list[int | float]:
    """Return the list if it is one of finite numbers, ValueError for anything else."""
    if not isinstance(data, list):
        raise ValueError(f"not a list: {data!r}")
    for value in data:
        known = isinstance(value, int | float) and not isinstance(value, bool)
        # Every int is finite, and isfinite() can't read one of 400 digits.
        if not known or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"not a finite number: {value!r}")
    return data


@app.task(bind=True, base=Patient, max_retries=5)
def exponential_backoff_task(self: Patient, data: list[int | float], key: str) -> list[int | float]:
    """Double each number, once the job allows it; waits 1, 2, 4, 8, 16 s."""
    # Before anything else, and outside the `try`: bad data stays bad.
    values = numbers(data)
    try:
        ask_job(key)
    except Unavailable as error:
        self.again(error, 2**self.request.retries)
    return [value * 2 for value in values]


DEAD_LETTERS = "retry_tasks:dead_letter"
WAITS = (10, 20, 30)


@app.task(bind=True, base=Patient, max_retries=len(WAITS))
def custom_retry_task(self: Patient, task_data: dict[str, Any]) -> Any:
    """Return the job's answer; what failed four times is put aside for a human."""
    try:
        return ask_job(task_data["key"]).json()
    except Unavailable as error:
        if self.request.retries < len(WAITS):
            self.again(error, WAITS[self.request.retries])
        # Here and not in `on_failure`, which Celery calls for every kind of failure, and only
        # after the result is stored: who sees the failure should find the letter.
        bury(self, task_data, error)
        raise


def bury(task: Task, task_data: dict[str, Any], error: Exception) -> None:
    """Append a dead letter to the list in the result backend's Redis."""
    letter = {
        "task_id": task.request.id,
        "task": task.name,
        "args": [task_data],
        "error": str(error),
        "attempts": task.request.retries + 1,
        "at": datetime.now(UTC).isoformat(),
    }
    # The backend's own connection, wherever it points: the broker may not be a Redis at all.
    app.backend.client.rpush(DEAD_LETTERS, dumps(letter))


@app.task
def retry_stats() -> dict[str, dict[str, int]]:
    """Return how the calls of each task ended, over all processes."""
    endings = ("first_try", "after_retries", "exhausted", "permanent")
    counted = app.backend.client.hgetall(STATS)
    return {
        task.name: {e: int(counted.get(f"{task.name} {e}".encode(), 0)) for e in endings}
        for task in (unreliable_task, fetch_url, exponential_backoff_task, custom_retry_task)
    }
