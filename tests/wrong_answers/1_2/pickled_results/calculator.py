"""A calculator on Celery."""

import decimal
import math
from decimal import Decimal

from celery import Celery

app = Celery("calculator", broker="redis://localhost:6379/0", backend="redis://localhost:6379/1")
app.conf.update(
    task_serializer="json", result_serializer="pickle", accept_content=["json", "pickle"]
)

# Wide enough for any two numbers of a calculator; without traps it raises nothing of its own.
WIDE = decimal.Context(prec=400, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])


def read(value):
    """Return the decimal number that `value` shows."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"not a number: {value!r}")
    try:
        result = Decimal(str(value).strip())
    except decimal.InvalidOperation:
        raise ValueError(f"not a number: {value!r}") from None
    if not result.is_finite():
        raise ValueError(f"not a finite number: {value!r}")
    return result


def read_whole(value, largest):
    """Return the whole number from 0 to `largest` that `value` shows."""
    result = read(value)
    if not 0 <= result <= largest or result != result.to_integral_value():
        raise ValueError(f"not a whole number from 0 to {largest}: {value!r}")
    return int(result)


def to_float(result):
    """Return the nearest float."""
    answer = float(result)
    if math.isinf(answer):
        raise OverflowError("the result is too large")
    return answer


@app.task
def add(x, y):
    return to_float(WIDE.add(read(x), read(y)))


@app.task
def subtract(x, y):
    return to_float(WIDE.subtract(read(x), read(y)))


@app.task
def multiply(x, y):
    return to_float(WIDE.multiply(read(x), read(y)))


@app.task
def divide(x, y):
    dividend, divisor = read(x), read(y)
    if divisor == 0:
        raise ZeroDivisionError("division by zero")
    return to_float(WIDE.divide(dividend, divisor))


@app.task
def power(base, exponent):
    b, e = read(base), read(exponent)
    if b == 0 and e < 0:
        raise ZeroDivisionError("zero to a negative power")
    if b < 0 and e != e.to_integral_value():
        raise ValueError(f"no real power: {base!r} ** {exponent!r}")
    return to_float(WIDE.power(b, e))


@app.task
def factorial(n):
    return math.factorial(read_whole(n, 1000))


@app.task
def fibonacci(n):
    a, b = 0, 1
    for _ in range(read_whole(n, 100)):
        a, b = b, a + b
    return a


@app.task
def sqrt(number):
    value = read(number)
    if value < 0:
        raise ValueError(f"no square root of a negative number: {number!r}")
    return to_float(WIDE.sqrt(value))
