"""Exercise 1.2: a calculator whose sums are done by Celery workers.

README.md says what each task accepts, returns and refuses. Replace every `raise
NotImplementedError`; the tasks' names and parameters stay as they are. Start a worker with
`celery -A calculator worker -l INFO` and grade with `pytest exercises/1_2`.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

# The URLs are for a machine of your own. CELERY_BROKER_URL and CELERY_RESULT_BACKEND in the
# environment, if they are set, come first: that is how the grader brings its own servers.
app = Celery(
    "calculator",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)

# TODO: say what messages and results may be made of.


# TODO: every task below reads numbers and writes one. Decide here, once, what counts as a number,
# what happens to what doesn't, and what becomes of a result that no float can hold.


@app.task
def add(x, y):
    """Return x + y as a float."""
    # TODO: add("0.1", 0.2) is 0.3.
    raise NotImplementedError("add")


@app.task
def subtract(x, y):
    """Return x - y as a float."""
    # TODO
    raise NotImplementedError("subtract")


@app.task
def multiply(x, y):
    """Return x * y as a float."""
    # TODO
    raise NotImplementedError("multiply")


@app.task
def divide(x, y):
    """Return x / y as a float."""
    # TODO: how many ways are there to write zero?
    raise NotImplementedError("divide")


@app.task
def power(base, exponent):
    """Return base ** exponent as a float."""
    # TODO: which pairs have no answer? And how long may 3 ** 10 ** 17 take?
    raise NotImplementedError("power")


@app.task
def factorial(n):
    """Return n! as an exact int, for n from 0 to 1000."""
    # TODO: 5, 5.0 and "5" are the same n; what is 2.7?
    raise NotImplementedError("factorial")


@app.task
def fibonacci(n):
    """Return the n-th Fibonacci number as an exact int, for n from 0 to 100."""
    # TODO: fibonacci(0) is 0, fibonacci(1) is 1.
    raise NotImplementedError("fibonacci")


@app.task
def sqrt(number):
    """Return the square root as a float."""
    # TODO
    raise NotImplementedError("sqrt")


# ------------------------------------------------------------------------- extension challenges


@app.task
def sin(x, unit="radians"):
    """Return the sine of the angle x."""
    # TODO, challenge 1: the unit "degrees" as well, and no other.
    raise NotImplementedError("sin")


@app.task
def cos(x, unit="radians"):
    """Return the cosine of the angle x."""
    # TODO, challenge 1
    raise NotImplementedError("cos")


@app.task
def tan(x, unit="radians"):
    """Return the tangent of the angle x."""
    # TODO, challenge 1: not every angle has one.
    raise NotImplementedError("tan")


@app.task
def history(limit=10):
    """Return the latest calculations, at most `limit` of them, the newest first."""
    # TODO, challenge 2: and who writes the entries, and where?
    raise NotImplementedError("history")


def calculate_batch(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Have the workers do many calculations; return their outcomes in the order of the items.

    Not a task: a client process calls it, for example with
    [{"operation": "add", "args": [1, 2]}, {"operation": "divide", "args": [1, 0]}].
    """
    # TODO, challenge 4
    raise NotImplementedError("calculate_batch")
