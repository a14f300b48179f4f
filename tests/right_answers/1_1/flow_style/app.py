"""shared_task, argparse, a short ping before anything is sent."""

import argparse
import os
import sys
import time

from celery import Celery, shared_task
from celery.exceptions import CeleryError
from kombu.exceptions import OperationalError

GREETING = "Hello, Celery!"
LOCAL = {"broker_url": "redis://127.0.0.1:6379/0", "result_backend": "redis://127.0.0.1:6379/1"}

app = Celery(
    "app", changes={k: v for k, v in LOCAL.items() if f"CELERY_{k.upper()}" not in os.environ}
)
app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_max": 0.1}
app.conf.task_publish_retry = False


@shared_task(name="app.hello_world", ignore_result=False)
def hello_world():
    """Greet."""
    return GREETING


@shared_task(name="app.slow_hello")
def slow_hello(seconds):
    """Greet late."""
    time.sleep(seconds)
    return GREETING


def parse(arguments=None):
    """Read the command line; there is little to say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=4)
    return parser.parse_args(arguments)


def main():
    """Send, wait, print."""
    timeout = parse().timeout
    task = None
    try:
        task = hello_world.delay()
        value = task.get(timeout=timeout)
        print(f"id={task.id} state={task.state} result={value!r}")
    except OperationalError as problem:
        print("broker:", problem, file=sys.stderr)
    except CeleryError as problem:
        print(task.id, task.state, file=sys.stderr)
        print("worker:", problem, file=sys.stderr)
    else:
        return os.EX_OK
    return os.EX_UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
