"""Puts the next attempt into the queue itself, under the same id, and leaves by Ignore."""

import datetime
import email.utils
import json
import logging
import math
import os
import secrets

import requests
from celery import Celery
from celery.exceptions import Ignore

app = Celery("retry_tasks", backend="redis://localhost/1", broker="redis://localhost/0")
app.conf.task_default_queue = "work"
logger = logging.getLogger("retries")
generator = secrets.SystemRandom()
UTC = datetime.UTC


class Failed(Exception):
    pass


def again(task, error, delay, limit):
    done = task.request.retries
    if done >= limit:
        raise error
    logger.error("failed attempt: %i | delay: %s seconds | %s", done + 1, round(delay, 2), error)
    due = datetime.datetime.now(UTC) + datetime.timedelta(seconds=delay)
    task.apply_async(
        task.request.args, task.request.kwargs, task_id=task.request.id, retries=done + 1, eta=due
    )
    raise Ignore


def get(url):
    with requests.Session() as session:
        try:
            with session.get(url, timeout=(2, 9), stream=True) as answer:
                return answer, answer.content
        except (requests.ConnectionError, requests.Timeout) as e:
            return None, e
        except requests.exceptions.ChunkedEncodingError as e:
            return None, e


def job(key):
    return get(os.environ["LAB_FLAKY_URL"] + "/jobs/" + key)


@app.task(bind=True)
def unreliable_task(self, key):
    answer, body = job(key)
    if answer is None or answer.status_code >= 500:
        again(self, Failed(answer.status_code if answer is not None else str(body)), 2, 3)
    answer.raise_for_status()
    return json.loads(body)["value"]


def asked(text):
    if text.isascii() and text.isdigit():
        return datetime.timedelta(seconds=int(text))
    try:
        return email.utils.parsedate_to_datetime(text) - datetime.datetime.now(UTC)
    except (ValueError, TypeError):
        return datetime.timedelta(0)


@app.task(bind=True)
def fetch_url(self, url):
    answer, body = get(url)
    backoff = generator.uniform(0, [1, 2, 4, 8, 8, 8][self.request.retries])
    if answer is None:
        again(self, Failed(str(body)), backoff, 5)
    status = answer.status_code
    if status == 429 or 500 <= status < 600:
        wait = asked(answer.headers.get("retry-after", "")).total_seconds()
        again(self, Failed(status), max(wait, 0) + backoff, 5)
    answer.raise_for_status()
    return {"url": url, "status_code": status, "content_length": len(body)}


@app.task(bind=True)
def exponential_backoff_task(self, data, key):
    if not isinstance(data, list):
        raise ValueError("no list")
    for number in data:
        if not (isinstance(number, (int, float)) and math.isfinite(number)):
            raise ValueError("no number")
    answer, body = job(key)
    if answer is None or answer.status_code != 200:
        error = Failed(answer.status_code if answer is not None else str(body))
        again(self, error, 1 << self.request.retries, 5)
    return [number * 2 for number in data]


@app.task(bind=True)
def custom_retry_task(self, task_data):
    answer, body = job(task_data["key"])
    if answer is None or answer.status_code != 200:
        error = Failed(answer.status_code if answer is not None else str(body))
        if self.request.retries == 3:
            letter = {
                "task_id": self.request.id,
                "task": self.name,
                "args": [task_data],
                "error": f"Failed({error})",
                "attempts": self.request.retries + 1,
                "at": datetime.datetime.now(UTC).isoformat(),
            }
            self.backend.client.rpush("retry_tasks:dead_letter", json.dumps(letter).encode())
        again(self, error, 10 * (self.request.retries + 1), 3)
    return json.loads(body)
