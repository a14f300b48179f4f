"""Greetings by Celery.

`python app.py` keeps what can go wrong in one table: an exception, a line, a status.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter

import celery.exceptions
import kombu.exceptions
from celery import Celery, signals

LOCAL = {"broker_url": "redis://localhost:6379/0", "result_backend": "redis://localhost:6379/0"}

app = Celery("app", changes={"broker_connection_retry_on_startup": True, "result_expires": 3600})
app.add_defaults(LOCAL)
started: dict[str, float] = {}


@app.task(bind=True, ignore_result=False)
def hello_world(self):
    """Return the greeting."""
    return slow_hello.run(0)


@app.task(ignore_result=False)
def slow_hello(seconds):
    """Return the greeting after so many seconds."""

    async def greet():
        return await asyncio.sleep(seconds, result="Hello, Celery!")

    return asyncio.run(greet())


@signals.task_prerun.connect
def note_start(task_id, **_):
    """Remember when a task began."""
    started[task_id] = perf_counter()


@signals.task_postrun.connect
def print_duration(task_id, task, **_):
    """A line a task in the worker's log."""
    print(
        f"{task.name} took {perf_counter() - started.pop(task_id, perf_counter()):.2f} s",
        flush=True,
    )


WRONG = {
    kombu.exceptions.OperationalError: ("The message broker does not accept connections.", 69),
    celery.exceptions.TimeoutError: ("No worker has answered: start one and try again.", 75),
}


def report():
    """Send hello_world and wait for it."""
    with app.producer_pool.acquire(block=True, timeout=2) as producer:
        producer.connection.ensure_connection(max_retries=1, interval_start=0.1)
        pending = hello_world.apply_async(producer=producer, retry=False, expires=10)
    try:
        value = pending.get(timeout=7, interval=0.1)
        return {"id": pending.id, "state": pending.state, "result": value}
    finally:
        if not pending.ready():
            pending.revoke()
            pending.forget()


def main():
    """Print a line of JSON, or what is wrong."""
    try:
        print(json.dumps(report()))
    except tuple(WRONG) as error:
        text, status = next(entry for kind, entry in WRONG.items() if isinstance(error, kind))
        print(text, file=sys.stderr)
        return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
