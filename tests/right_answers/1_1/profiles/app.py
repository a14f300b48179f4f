"""A thread pool's worth of care: quorum queues, a watchdog around the whole script."""

import asyncio
import os
import sys

from celery import Celery
from kombu import Queue

app = Celery(
    "app",
    broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
    backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/1"),
)
app.conf.task_queues = [Queue("hello", routing_key="hello")]
app.conf.task_default_queue = app.conf.task_default_routing_key = "hello"
app.conf.worker_send_task_events = True
app.conf.worker_soft_shutdown_timeout = 5


@app.task
def hello_world():
    return "Hello, Celery!"


@app.task
def slow_hello(seconds):
    asyncio.run(asyncio.sleep(seconds))
    return "Hello, Celery!"


if __name__ == "__main__":
    # Under this name the module is another one: its tasks would be registered a second time.
    from app import hello_world as greeting

    try:
        pending = greeting.delay()
    except Exception as error:
        sys.exit(f"could not send: {type(error).__name__}")
    print("sent", pending.id)
    try:
        value = pending.get(timeout=8)
    except Exception as error:
        sys.exit(f"could not get a result: {type(error).__name__}")
    print("state", pending.state)
    print("value", value)
