"""Exercise 1.3: tasks that try again.

README.md says what each task does, when it tries again and how long it waits. Replace every `raise
NotImplementedError`; the tasks' names and parameters stay as they are, and options such as
`bind=True` are yours to add. Start a worker with `celery -A retry_tasks worker -l INFO` and grade
with `pytest exercises/1_3`.
"""

from __future__ import annotations

import os

from celery import Celery

# The URLs are for a machine of your own. CELERY_BROKER_URL and CELERY_RESULT_BACKEND in the
# environment, if they are set, come first: that is how the grader brings its own servers.
app = Celery(
    "retry_tasks",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)

FLAKY_URL = os.environ.get("LAB_FLAKY_URL", "http://127.0.0.1:8003")

# TODO: which answers, and which missing answers, may be different in a moment? Decide here, once.


@app.task
def unreliable_task(key):
    """Return the "value" of GET {FLAKY_URL}/jobs/<key>; at most 3 retries, 2 s apart."""
    # TODO
    raise NotImplementedError("unreliable_task")


@app.task
def fetch_url(url):
    """Return {"status_code", "content_length", "url"} of a page; at most 5 retries."""
    # TODO: the wait is drawn from 0 to 1, 2, 4, 8, 8 s, and Retry-After may ask for more.
    raise NotImplementedError("fetch_url")


@app.task
def exponential_backoff_task(data, key):
    """Return each number doubled, once the job answers 200; at most 5 retries."""
    # TODO: the waits are exactly 1, 2, 4, 8, 16 s. And what if `data` is no list of numbers?
    raise NotImplementedError("exponential_backoff_task")


@app.task
def custom_retry_task(task_data):
    """Return the JSON body of the job task_data["key"]; at most 3 retries."""
    # TODO: the waits are 10, 20, 30 s. After the last one comes the dead letter.
    raise NotImplementedError("custom_retry_task")


# ------------------------------------------------------------------------- extension challenges


@app.task
def retry_stats():
    """Return how the calls of each task ended."""
    # TODO, challenge 3
    raise NotImplementedError("retry_stats")
