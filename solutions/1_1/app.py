"""Reference solution of exercise 1_1: one module, the same on a laptop and in a container."""

from __future__ import annotations

import sys
import time

from celery import Celery
from celery.exceptions import TimeoutError
from kombu.exceptions import OperationalError

GREETING = "Hello, Celery!"
WAIT_SECONDS = 3

# Defaults for a laptop, nothing more: CELERY_BROKER_URL and CELERY_RESULT_BACKEND win over both.
# (They would lose against broker_read_url and broker_write_url.)
#
# The name is the module's: `python app.py` runs this file as __main__, and Celery then names tasks
# after the app. With another name the script would publish a task that no worker knows.
app = Celery("app", broker="redis://localhost:6379/0", backend="redis://localhost:6379/1")

app.conf.update(
    # The transport's own retries would go on for longer than a person waits.
    broker_connection_timeout=3,
    # What nobody fetched is gone after an hour instead of a day.
    result_expires=3600,
)


@app.task
def hello_world() -> str:
    """Return the greeting."""
    return GREETING


@app.task
def slow_hello(seconds: float) -> str:
    """Return the greeting after so many seconds; something to be interrupted."""
    time.sleep(seconds)
    return GREETING


def main() -> int:
    """Send hello_world and tell what becomes of it; return the exit status."""
    try:
        # Asked first and once: `delay` would ask the result backend before the broker, and try
        # again for twenty seconds where both are down.
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
        # Nobody is interested any more when we have given up: the next worker drops it.
        result = hello_world.apply_async(expires=WAIT_SECONDS)
        print(f"id      {result.id}", flush=True)
        answer = result.get(timeout=WAIT_SECONDS)
    except OperationalError as error:
        return fail(f"no broker at {app.connection_for_write().as_uri()}: {error}")
    except TimeoutError:
        # The backend keeps a result that has not come, to tell it of the answer, until the end.
        result.forget()
        return fail(
            f"no worker answered within {WAIT_SECONDS} s; start one: celery -A app worker -l INFO"
        )
    # Only now: before the answer it would say PENDING.
    print(f"state   {result.state}")
    print(f"result  {answer}")
    return 0


def fail(reason: str) -> int:
    """Print one line to standard error and return the exit status of a failure."""
    print(f"app.py: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    # By way of a function: its result and its connections are gone before the interpreter ends,
    # and nothing is left to complain ("Exception ignored in ...").
    sys.exit(main())
