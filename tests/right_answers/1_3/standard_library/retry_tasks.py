"""No HTTP library but urllib, and every retry with a moment of its own instead of a countdown."""

import gzip
import json
import math
import os
import random
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import redis
from celery import Celery
from celery.utils.log import get_task_logger

celery = app = Celery("retry_tasks")
log = get_task_logger("retry_tasks")
lots = random.SystemRandom()
GMT = timezone(timedelta())


class TryLater(Exception):
    pass


def read(url):
    """Return (status, headers, body); whatever keeps an answer from being whole is TryLater."""
    request = Request(url, headers={"Accept-Encoding": "gzip"})
    try:
        try:
            with urlopen(request, timeout=10) as reply:
                status, headers, body = reply.status, reply.headers, reply.read()
        except HTTPError as reply:
            status, headers, body = reply.code, reply.headers, reply.read()
    except (OSError, HTTPException) as error:
        raise TryLater(repr(error)) from error
    if headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return status, headers, body


def later(task, error, seconds):
    number = task.request.retries + 1
    if number > task.max_retries:
        raise error
    log.info(f"{number}. attempt: {error!r}; again in {seconds:.2f}s")
    task.retry(exc=error, eta=datetime.now(GMT) + timedelta(seconds=seconds))


def job(key):
    return read(f"{os.environ['LAB_FLAKY_URL']}/jobs/{key}")


@app.task(bind=True)
def unreliable_task(self, key):
    try:
        status, _, body = job(key)
        if status // 100 == 5:
            raise TryLater(f"{status} from {key}")
    except TryLater as error:
        later(self, error, 2)
    if status != 200:
        raise LookupError(f"{status} from {key}")
    return json.loads(body)["value"]


@app.task(bind=True, max_retries=5)
def fetch_url(self, url):
    asked = 0
    try:
        status, headers, body = read(url)
        if status == 429 or status // 100 == 5:
            header = headers.get("Retry-After") or ""
            if header.isascii() and header.isdigit():
                asked = int(header)
            else:
                with suppress(ValueError, TypeError):
                    moment = parsedate_to_datetime(header)
                    asked = max(0, (moment - datetime.now(GMT)).total_seconds())
            raise TryLater(f"{status} from {url}")
    except TryLater as error:
        most = (1, 2, 4, 8, 8, 8)[self.request.retries]
        later(self, error, max(asked, lots.randint(0, most)))
    if status >= 400:
        raise LookupError(f"{status} from {url}")
    return {"status_code": status, "content_length": len(body), "url": url}


@app.task(bind=True, max_retries=5)
def exponential_backoff_task(self, data, key):
    if type(data) is not list:
        raise ValueError("no list")
    for number in data:
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError("no number")
    try:
        if (status := job(key)[0]) != 200:
            raise TryLater(f"{status} from {key}")
    except TryLater as error:
        later(self, error, 1 << self.request.retries)
    return [number + number for number in data]


@app.task(bind=True)
def custom_retry_task(self, task_data):
    try:
        status, _, body = job(task_data["key"])
        if status != 200:
            raise TryLater(f"{status} from {task_data['key']}")
    except TryLater as error:
        if self.request.retries == 3:
            letter = {
                "task_id": self.request.id,
                "task": self.name,
                "args": [task_data],
                "error": repr(error),
                "attempts": 4,
                "at": datetime.now().astimezone().isoformat(),
            }
            with redis.Redis.from_url(app.conf.result_backend) as line:
                line.rpush("retry_tasks:dead_letter", json.dumps(letter))
        later(self, error, 10 + 10 * self.request.retries)
    return json.loads(body)
