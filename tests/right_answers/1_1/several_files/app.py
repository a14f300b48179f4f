"""Bound tasks with names of their own; the script is told by exceptions what is wrong."""

import sys
import threading

import kombu.exceptions
from celery import Celery, exceptions

app = Celery(__name__ if __name__ != "__main__" else "app", set_as_current=False)
app.conf.broker_url = app.conf.broker_url or "redis://localhost"
app.conf.result_backend = app.conf.result_backend or "redis://localhost/1"
app.conf.update(task_track_started=True, result_extended=True, task_serializer="json")


@app.task(bind=True, name="app.hello_world")
def hello_world(self):
    """Greet."""
    return "Hello, Celery!"


@app.task(bind=True, name="app.slow_hello", acks_late=True)
def slow_hello(self, seconds: float = 1.0):
    """Wait, then greet."""
    threading.Event().wait(seconds)
    return "Hello, Celery!"


def run():
    """Send by name, wait, tell."""
    result = app.send_task("app.hello_world", expires=10)
    try:
        answer = result.get(timeout=6, interval=0.2)
    except exceptions.TimeoutError:
        raise SystemExit(f"{result.id}: nobody took the task within 6 s") from None
    return f"{result.id} {result.state} {answer}"


if __name__ == "__main__":
    try:
        print(run())
    except kombu.exceptions.KombuError as error:
        print(f"cannot publish: {error!r}", file=sys.stderr)
        sys.exit(69)
