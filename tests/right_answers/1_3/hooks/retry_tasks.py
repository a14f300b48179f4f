"""autoretry_for, with `retry` overridden in the base class; plain http.client does the asking."""

import http.client
import json
import logging
import math
import os
import random
import time
import zlib
from datetime import datetime, timezone
from email.utils import mktime_tz, parsedate_tz
from urllib.parse import urlsplit

from celery import Celery, Task

logger = logging.getLogger("mine")
app = Celery("retry_tasks")
app.conf.update(worker_prefetch_multiplier=1, result_extended=True)


class Passing(Exception):
    def __init__(self, text, after=0):
        super().__init__(text)
        self.after = after

    def __reduce__(self):
        return Passing, (str(self), self.after)


def get(url):
    """Return (status, headers, body) of one request."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    line = http.client.HTTPConnection(parts.hostname, parts.port, timeout=9)
    try:
        line.request("GET", target)
        reply = line.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise Passing(f"{type(error).__name__} {error}") from error
    finally:
        line.close()
    if reply.getheader("Content-Encoding") == "gzip":
        body = zlib.decompress(body, wbits=31)
    return reply.status, reply.headers, body


def job(key):
    return get(os.environ["LAB_FLAKY_URL"] + "/jobs/" + key)


class Patient(Task):
    autoretry_for = (Passing,)
    retry_jitter = False

    def wait(self, done, error):
        return 2

    def retry(self, *, exc=None, **options):
        """What autoretry calls: the wait is the task's own, whatever it would have been."""
        done, last = self.request.retries, self.request.retries >= self.max_retries
        if last:
            self.give_up(exc)
        else:
            options["countdown"] = self.wait(done, exc)
            logger.warning(
                f"attempt={done + 1}/{self.max_retries + 1} "
                f"wait={options['countdown']} {type(exc).__name__}({exc})"
            )
        return super().retry(exc=exc, **options)

    def give_up(self, error):
        """Called when no retry is left."""


@app.task(base=Patient)
def unreliable_task(key):
    status, _, body = job(key)
    if status >= 500:
        raise Passing(f"status {status}")
    if status >= 400:
        raise PermissionError(f"status {status}")
    return json.loads(body)["value"]


class Drawing(Patient):
    max_retries = 5

    def wait(self, done, error):
        return error.after + random.random() * min(8, 1 << done)


def seconds(text):
    if text.isdigit():
        return int(text)
    parts = parsedate_tz(text)
    try:
        return max(0, mktime_tz(parts) - time.time()) if parts else 0
    except (ValueError, OverflowError):
        return 0


@app.task(base=Drawing)
def fetch_url(url):
    status, headers, body = get(url)
    if status == 429 or status >= 500:
        raise Passing(f"status {status}", seconds(headers.get("Retry-After", "")))
    if status >= 400:
        raise PermissionError(f"status {status}")
    return {"url": url, "status_code": status, "content_length": len(body)}


class Doubling(Patient):
    max_retries = 5

    def wait(self, done, error):
        return 2**done


def is_number(value):
    return type(value) in (int, float) and not math.isnan(value) and abs(value) != math.inf


@app.task(base=Doubling)
def exponential_backoff_task(data, key):
    if not isinstance(data, list) or not all(is_number(value) for value in data):
        raise ValueError("data must be a list of finite numbers")
    if (status := job(key)[0]) != 200:
        raise Passing(f"status {status}")
    return [2 * value for value in data]


class Burying(Patient):
    def wait(self, done, error):
        return (done + 1) * 10

    def give_up(self, error):
        letter = {
            "task_id": self.request.id,
            "task": self.name,
            "args": list(self.request.args) or list(self.request.kwargs.values()),
            "error": f"{error}",
            "attempts": self.request.retries + 1,
            "at": datetime.now(timezone.utc).isoformat(),  # noqa: UP017
        }
        app.backend.client.rpush("retry_tasks:dead_letter", json.dumps(letter))


@app.task(base=Burying)
def custom_retry_task(task_data):
    status, _, body = job(task_data["key"])
    if status != 200:
        raise Passing(f"status {status}")
    return json.loads(body)
