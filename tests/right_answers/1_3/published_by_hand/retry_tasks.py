"""Exercise 1.3 without self.retry: the task stores RETRY, publishes itself, and is ignored."""

from __future__ import annotations

import functools
import json
import math
import os
import random
import re
from calendar import timegm
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz
from time import time
from urllib.parse import quote

import requests
from celery import Celery
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger

app = Celery(
    "retry_tasks",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
    task_default_queue="celery",
    task_publish_retry=True,
    result_extended=True,
)
log = get_task_logger(__name__)


class Failed(Exception):
    """The one error of this module; args are one text."""

    def __init__(self, text, again=True, header=None):
        super().__init__(text)
        self.again, self.header = again, header

    def __reduce__(self):
        return type(self), (str(self), self.again, self.header)


def request(url, again, needs_200=True, timeout=6.0):
    """GET the url once. `again(status)` tells which statuses are worth another attempt."""
    try:
        with requests.get(url, timeout=timeout, stream=True) as response:
            status = response.status_code
            if status == 200 or not needs_200 and status < 400:
                return status, b"".join(response.iter_content(65536))
            raise Failed(
                f"HTTP {status} {response.reason}",
                again(status),
                response.headers.get("retry-after"),
            )
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    except (
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
    ) as error:
        raise Failed(f"the body was cut: {error}") from error


def job(key, again=lambda status: True):
    base = os.environ.get("LAB_FLAKY_URL", "http://127.0.0.1:8003")
    return request(f"{base.rstrip('/')}/jobs/{quote(str(key), safe='')}", again)


def floor(header):
    if header is None:
        return 0.0
    if re.fullmatch(r"\s*[0-9]+\s*", header):
        return float(header)
    parsed = parsedate_tz(header)
    if parsed is None:
        return 0.0
    try:
        due = timegm(parsed[:6] + (0, 1, 0)) if parsed[9] is None else mktime_tz(parsed)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, due - time())


def retried(limit, wait, when_spent=None):
    """Decorate a bound task function: a Failed that is worth it has the task published again."""

    def decorate(function):
        @functools.wraps(function)
        def run(self, *args, **kwargs):
            me = self.request
            try:
                return function(self, *args, **kwargs)
            except Failed as error:
                if not error.again:
                    raise
                if me.retries >= limit:
                    if when_spent:
                        when_spent(self, error, *args, **kwargs)
                    raise
                seconds = wait(me.retries, error)
                cause = error
            log.warning("attempt %d: %s; waiting %g s", me.retries + 1, cause, seconds)
            self.backend.mark_as_retry(me.id, cause, request=me)
            self.signature_from_request(me, countdown=seconds, retries=me.retries + 1).apply_async()
            raise Ignore()

        return run

    return decorate


def jitter(retries, error):
    drawn = random.randrange(0, 100 * min(8, 1 << retries) + 1) / 100
    return round(floor(error.header) + drawn, 2)


def bury(task, error, task_data):
    task.backend.client.rpush(
        "retry_tasks:dead_letter",
        json.dumps(
            dict(
                task_id=task.request.id,
                task=task.name,
                args=[task_data],
                error=str(error),
                attempts=task.request.retries + 1,
                at=datetime.now(UTC).isoformat(),
            )
        ),
    )


@app.task(bind=True, name="retry_tasks.unreliable_task")
@retried(3, lambda retries, error: 2)
def unreliable_task(self, key):
    _, body = job(key, again=lambda status: status >= 500)
    return json.loads(body)["value"]


@app.task(bind=True, name="retry_tasks.fetch_url")
@retried(5, jitter)
def fetch_url(self, url):
    status, body = request(
        url, lambda status: status == 429 or status >= 500, needs_200=False, timeout=(4, 9)
    )
    return {"status_code": status, "content_length": len(body), "url": url}


@app.task(bind=True, name="retry_tasks.exponential_backoff_task")
@retried(5, lambda retries, error: 1 << retries)
def exponential_backoff_task(self, data, key):
    if not isinstance(data, list):
        raise ValueError(f"a list is wanted, not {data!r}")
    for number in data:
        if isinstance(number, int):
            continue
        if not isinstance(number, float) or not math.isfinite(number):
            raise ValueError(f"a finite number is wanted, not {number!r}")
    job(key)
    return [2 * number for number in data]


@app.task(bind=True, name="retry_tasks.custom_retry_task")
@retried(3, lambda retries, error: 10 + 10 * retries, when_spent=bury)
def custom_retry_task(self, task_data):
    return json.loads(job(task_data["key"])[1])
