"""Celery's own autoretry wherever it can say what is wanted, `retry` by hand where it can't."""

import json
import math
import os
import time
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz

import redis
import requests
from celery import Celery
from celery.utils.time import get_exponential_backoff_interval

app = Celery("lab")
FLAKY = os.environ.get("LAB_FLAKY_URL", "http://127.0.0.1:8003")


class TryAgain(Exception):
    pass


class Talkative(app.Task):
    def retry(self, *args, exc=None, countdown=None, **options):
        # Autoretry comes through here as well.
        if self.request.retries < self.max_retries:
            row = {"attempt": self.request.retries + 1, "wait": countdown, "error": str(exc)}
            print(json.dumps(row))
        return super().retry(*args, exc=exc, countdown=countdown, **options)


def get(url):
    try:
        return requests.get(url, timeout=5)
    except requests.exceptions.InvalidURL:
        raise
    except (requests.exceptions.Timeout, requests.exceptions.ConnectionError) as e:
        raise TryAgain(str(e)) from e
    except (
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
    ) as e:
        raise TryAgain(f"body: {e}") from e


@app.task(
    name="retry_tasks.unreliable_task",
    base=Talkative,
    autoretry_for=(TryAgain,),
    max_retries=3,
    retry_kwargs={"countdown": 2},
)
def unreliable(key):
    r = get(f"{FLAKY}/jobs/{key}")
    if r.status_code // 100 == 5:
        raise TryAgain(f"{r.status_code} {r.reason}")
    r.raise_for_status()
    return r.json()["value"]


def floor_of(header):
    if header and header.isdigit():
        return int(header)
    parsed = parsedate_tz(header or "")
    try:
        return max(0, mktime_tz(parsed) - time.time()) if parsed else 0
    except (ValueError, OverflowError, TypeError):
        return 0


@app.task(name="retry_tasks.fetch_url", bind=True, base=Talkative, max_retries=5)
def fetch(self, url):
    least = 0
    try:
        r = get(url)
        if r.status_code == 429 or r.status_code >= 500:
            least = floor_of(r.headers.get("Retry-After"))
            raise TryAgain(f"{r.status_code} {r.reason}")
    except TryAgain as e:
        backoff = get_exponential_backoff_interval(1, self.request.retries, 8, full_jitter=True)
        raise self.retry(exc=e, countdown=least + backoff) from e
    r.raise_for_status()
    return {"url": url, "status_code": r.status_code, "content_length": len(r.content)}


def check(data):
    if type(data) is not list:
        raise ValueError("a list, please")
    for x in data:
        if type(x) not in (int, float) or (type(x) is float and not math.isfinite(x)):
            raise ValueError(f"{x!r}?")


@app.task(
    name="retry_tasks.exponential_backoff_task",
    base=Talkative,
    autoretry_for=(TryAgain,),
    max_retries=5,
    retry_backoff=True,
    retry_backoff_max=16,
    retry_jitter=False,
)
def exponential(data, key):
    check(data)
    r = get(f"{FLAKY}/jobs/{key}")
    if r.status_code != 200:
        raise TryAgain(f"{r.status_code} {r.reason}")
    return [2 * x for x in data]


class Buried(Talkative):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        if isinstance(exc, TryAgain):
            row = {"task_id": task_id, "task": self.name, "error": repr(exc)}
            row["args"] = [*args, *kwargs.values()]
            row["attempts"] = self.request.retries + 1
            row["at"] = datetime.now(UTC).astimezone().isoformat()
            store = redis.Redis.from_url(os.environ["CELERY_RESULT_BACKEND"])
            store.rpush("retry_tasks:dead_letter", json.dumps(row))


@app.task(name="retry_tasks.custom_retry_task", bind=True, base=Buried, max_retries=3)
def custom(self, task_data):
    try:
        r = get(f"{FLAKY}/jobs/{task_data['key']}")
        if r.status_code != 200:
            raise TryAgain(f"{r.status_code} {r.reason}")
    except TryAgain as e:
        self.retry(exc=e, countdown=10 * (1 + self.request.retries))
    return r.json()
