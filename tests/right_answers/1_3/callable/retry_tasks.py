"""One base class with the whole policy: what to retry, how often, and a callable for the wait."""

import json
import os
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz
from math import isfinite

import requests
from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.log import get_task_logger

logger = get_task_logger("retries")


class RetryLater(Exception):
    after = None  # what Retry-After asked for, in seconds


class PolicyTask(Task):
    """`wait_for(retries, error)` is any callable."""

    wait_for = None

    def __call__(self, *args, **kwargs):
        try:
            return super().__call__(*args, **kwargs)
        except (Retry, Ignore, Reject):
            raise
        except RetryLater as error:
            seconds = self.wait_for(self.request.retries, error)
            message = f"attempt={self.request.retries + 1} wait={seconds}s error={error}"
            if self.request.retries < self.max_retries:
                logger.warning(message)
            else:
                self.spent(error, *args, **kwargs)
            raise self.retry(exc=error, countdown=seconds) from error

    def spent(self, error, *args, **kwargs):
        """Called once, when the last retry has failed."""


app = Celery("retry_tasks", task_cls=PolicyTask)


def get(url):
    try:
        return requests.get(url, timeout=9.5)
    except requests.RequestException as error:
        if isinstance(error, ValueError) and not isinstance(error, requests.JSONDecodeError):
            raise  # a URL that is none
        raise RetryLater(f"{type(error).__name__}: {error}") from error


def job(key):
    return get("/".join([os.environ["LAB_FLAKY_URL"], "jobs", key]))


@app.task(max_retries=3, wait_for=staticmethod(lambda retries, error: 2.0))
def unreliable_task(key):
    answer = job(key)
    if answer.status_code > 499:
        raise RetryLater(f"HTTP {answer.status_code}")
    answer.raise_for_status()
    return answer.json()["value"]


def jittered(retries, error):
    return round((error.after or 0) + random.uniform(0, min(8, 2**retries)), 2)


@app.task(max_retries=5, wait_for=staticmethod(jittered))
def fetch_url(url):
    answer = get(url)
    if answer.status_code in (429, *range(500, 600)):
        error = RetryLater(f"HTTP {answer.status_code}")
        header = answer.headers.get("Retry-After", "")
        if header.isdecimal():
            error.after = float(header)
        date = parsedate_tz(header) if error.after is None else None
        if date:
            with suppress(ValueError, OverflowError):
                error.after = max(0, mktime_tz(date) - time.time())
        raise error
    answer.raise_for_status()
    return {"status_code": answer.status_code, "content_length": len(answer.content), "url": url}


@app.task(max_retries=5, wait_for=staticmethod(lambda retries, error: 2**retries))
def exponential_backoff_task(data, key):
    if not isinstance(data, list) or not all(type(x) in (int, float) and isfinite(x) for x in data):
        raise ValueError(f"not a list of finite numbers: {data!r}")
    answer = job(key)
    if answer.status_code != 200:
        raise RetryLater(f"HTTP {answer.status_code}")
    return [x * 2 for x in data]


class Burying(PolicyTask):
    def spent(self, error, task_data):
        letter = {"task_id": self.request.id, "task": self.name, "args": [task_data]}
        letter |= {"error": str(error), "attempts": self.request.retries + 1}
        letter["at"] = datetime.now(UTC).isoformat()
        self.app.backend.client.rpush("retry_tasks:dead_letter", json.dumps(letter))


@app.task(base=Burying, max_retries=3, wait_for=staticmethod(lambda n, _: (10, 20, 30, 0)[n]))
def custom_retry_task(task_data):
    answer = job(task_data["key"])
    if answer.status_code != 200:
        raise RetryLater(f"HTTP {answer.status_code}")
    return answer.json()
