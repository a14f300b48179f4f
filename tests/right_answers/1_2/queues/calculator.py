"""Queues of its own: quick sums in one, integers in another; on RabbitMQ they are quorum queues."""

import math
from decimal import Context, Decimal, InvalidOperation

from celery import Celery
from kombu import Exchange, Queue

app = Celery("calculator", broker="redis://localhost:6379/0", backend="redis://localhost:6379/1")
sums = Exchange("sums", type="direct")
app.conf.update(
    task_default_queue="quick",
    task_default_exchange="sums",
    task_default_routing_key="quick",
    task_queues=[
        Queue("quick", sums, routing_key="quick", queue_arguments={"x-queue-type": "quorum"}),
        Queue("whole", sums, routing_key="whole", queue_arguments={"x-queue-type": "quorum"}),
    ],
    task_routes={
        "calculator.factorial": {"queue": "whole", "routing_key": "whole"},
        "calculator.fibonacci": {"queue": "whole", "routing_key": "whole"},
    },
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["application/json"],
)

EXACT = Context(prec=300, Emin=-(10**18) + 1, Emax=10**18 - 1, traps=[])


def check(value: int | float | str) -> Decimal:
    """Return the number; ValueError for what is none."""
    try:
        if isinstance(value, bool | list | tuple):
            raise TypeError
        number = Decimal(value if isinstance(value, int | str) else repr(value))
        if not number.is_finite():
            raise TypeError
    except (InvalidOperation, TypeError):
        raise ValueError(f"{value!r} is no number") from None
    return number


def check_whole(value: int | float | str, maximum: int) -> int:
    """Return the whole number; ValueError for what is none or is out of range."""
    number = check(value)
    for candidate in range(maximum + 1):
        if candidate == number:
            return candidate
    raise ValueError(f"{value!r} is not one of 0, 1, ..., {maximum}")


def finite(number: Decimal) -> float:
    """Return the float; OverflowError if there is none."""
    if abs(float(number)) == math.inf:
        raise OverflowError(f"{number:.3e} does not fit a float")
    return float(number)


@app.task
def add(x, y):
    return finite(EXACT.add(check(x), check(y)))


@app.task
def subtract(x, y):
    return finite(EXACT.subtract(check(x), check(y)))


@app.task
def multiply(x, y):
    return finite(EXACT.multiply(check(x), check(y)))


@app.task
def divide(x, y):
    numbers = check(x), check(y)
    if numbers[1] == 0:
        raise ZeroDivisionError("divide")
    return finite(EXACT.divide(*numbers))


@app.task
def power(base, exponent):
    b, e = check(base), check(exponent)
    if b == 0 > e:
        raise ZeroDivisionError("power")
    result = EXACT.power(b, e)
    if result.is_nan():
        raise ValueError(f"{base!r} to the power {exponent!r} is no real number")
    return finite(result)


@app.task
def factorial(n):
    return math.perm(check_whole(n, 1000))


@app.task
def fibonacci(n):
    n = check_whole(n, 100)
    return sum(math.comb(n - 1 - k, k) for k in range((n + 1) // 2))


@app.task
def sqrt(number):
    root = EXACT.sqrt(check(number))
    if root.is_nan():
        raise ValueError(f"{number!r} has no real root")
    return finite(root)
