"""One module, two lives: imported by Celery it is `app`, run by hand it imports itself under that name."""

import logging
import os
import sys
from time import sleep

from celery import Celery
from celery.exceptions import TimeoutError as NoAnswer
from kombu.exceptions import OperationalError

app = Celery(
    "app",
    broker=os.getenv("CELERY_BROKER_URL") or "redis://localhost:6379",
    backend=os.getenv("CELERY_RESULT_BACKEND") or "redis://localhost:6379",
)
app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.2}
app.conf.result_extended = True


@app.task
def hello_world():
    return "Hello, Celery!"


@app.task(bind=True, acks_late=True)
def slow_hello(self, seconds):
    sleep(seconds)
    return "Hello, Celery!"


def main():
    logging.disable(logging.CRITICAL)  # what there is to say, we say
    from app import app as imported
    from app import hello_world as task

    try:
        with imported.connection_or_acquire() as connection:
            connection.ensure_connection(
                max_retries=2, interval_start=0.2, interval_step=0.2, timeout=6
            )
        result = task.delay()
    except OperationalError as problem:
        sys.exit("No connection to the broker (%s)." % str(problem).splitlines()[0].rstrip("."))
    try:
        value = result.get(timeout=9, interval=0.1)
    except NoAnswer:
        result.forget()
        sys.exit("No worker has answered within 9 seconds.")
    print({"task": result.id, "state": result.state, "result": value})


if __name__ == "__main__":
    main()
