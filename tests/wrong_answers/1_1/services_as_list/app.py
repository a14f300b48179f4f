"""An ordinary app."""

import sys
import time

from celery import Celery
from celery.exceptions import TimeoutError
from kombu.exceptions import OperationalError

app = Celery("app", broker="redis://localhost:6379/0", backend="redis://localhost:6379/1")


@app.task
def hello_world():
    """Greet."""
    return "Hello, Celery!"


@app.task
def slow_hello(seconds):
    """Greet late."""
    time.sleep(seconds)
    return "Hello, Celery!"


def main():
    """Send the greeting and wait for it."""
    try:
        result = hello_world.delay()
        print(result.id)
        answer = result.get(timeout=3)
    except OperationalError:
        sys.exit("The broker does not answer.")
    except TimeoutError:
        sys.exit("No worker answers.")
    print(result.state, answer)


if __name__ == "__main__":
    main()
