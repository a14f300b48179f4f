"""Tasks that try again."""

import json
import math
import os
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests
from celery import Celery
from celery.utils.log import get_task_logger

app = Celery("retry_tasks", broker="redis://localhost:6379/0", backend="redis://localhost:6379/1")
logger = get_task_logger(__name__)

BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class ServiceError(Exception):
    """The service answered otherwise than it should."""


def again(task, error, wait):
    """Leave the task and have it tried again after `wait` seconds."""
    number = task.request.retries + 1
    if number <= task.max_retries:
        logger.warning("attempt %s failed, waiting %.2f s: %s", number, wait, error)
    raise task.retry(exc=error, countdown=wait)


def get(url):
    """GET a page."""
    return requests.get(url)


def job(key):
    """GET a job."""
    return get(os.environ["LAB_FLAKY_URL"] + "/jobs/" + key)


def need_200(key):
    """GET a job that must be there."""
    response = job(key)
    if response.status_code != 200:
        raise ServiceError(f"status {response.status_code}")
    return response


@app.task(bind=True, max_retries=3)
def unreliable_task(self, key):
    """Return a job's value."""
    try:
        response = job(key)
        if response.status_code >= 500:
            raise ServiceError(f"status {response.status_code}")
    except (ServiceError, *BROKEN) as error:
        again(self, error, 2)
    response.raise_for_status()
    return response.json()["value"]


def jitter(retries):
    """Draw a wait."""
    return random.uniform(0, min(8, 2**retries))


def asked_to_wait(header):
    """Return the seconds that Retry-After asks for."""
    if header.isdecimal():
        return int(header)
    try:
        moment = parsedate_to_datetime(header)
        return max(0, (moment - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0


@app.task(bind=True, max_retries=5)
def fetch_url(self, url):
    """Fetch a page."""
    wait = jitter(self.request.retries)
    try:
        response = get(url)
        if response.status_code == 429 or response.status_code >= 500:
            wait += asked_to_wait(response.headers.get("Retry-After", ""))
            raise ServiceError(f"status {response.status_code}")
    except (ServiceError, *BROKEN) as error:
        again(self, error, wait)
    response.raise_for_status()
    return {
        "status_code": response.status_code,
        "content_length": len(response.content),
        "url": url,
    }


def is_number(value):
    """Whether this is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


@app.task(bind=True, max_retries=5)
def exponential_backoff_task(self, data, key):
    """Double the numbers."""
    if not isinstance(data, list) or not all(map(is_number, data)):
        raise ValueError(f"not a list of finite numbers: {data!r}")
    try:
        need_200(key)
    except (ServiceError, *BROKEN) as error:
        again(self, error, 2**self.request.retries)
    return [2 * value for value in data]


def bury(task, task_data, error):
    """Append the dead letter."""
    letter = {
        "task_id": task.request.id,
        "task": task.name,
        "args": [task_data],
        "error": str(error),
        "attempts": task.request.retries + 1,
        "at": datetime.now(UTC).isoformat(),
    }
    app.backend.client.rpush("retry_tasks:dead_letter", json.dumps(letter))


@app.task(bind=True, max_retries=3)
def custom_retry_task(self, task_data):
    """Return a job's body."""
    try:
        return need_200(task_data["key"]).json()
    except (ServiceError, *BROKEN) as error:
        if self.request.retries == self.max_retries:
            bury(self, task_data, error)
        again(self, error, 10 * (self.request.retries + 1))
