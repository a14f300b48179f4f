"""A calculator on Celery."""

import decimal
import json
import math
from datetime import UTC, datetime
from decimal import Decimal

from celery import Celery, Task, group

app = Celery("calculator", broker="redis://localhost:6379/0", backend="redis://localhost:6379/1")
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])

WIDE = decimal.Context(prec=400, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])
OPERATIONS = [
    "add", "subtract", "multiply", "divide", "power", "factorial", "fibonacci", "sqrt",
    "sin", "cos", "tan",
]  # fmt: skip


class Recorded(Task):
    """A task that writes its calculations down."""

    typing = False

    def __call__(self, *args, **kwargs):
        try:
            result = self.run(*args, **kwargs)
        except Exception as error:
            self.record(args, kwargs, None, describe(error))
            raise
        self.record(args, kwargs, result, None)
        return result

    def record(self, args, kwargs, result, error):
        entry = {
            "operation": self.name.split(".")[-1],
            "args": [*args, *kwargs.values()],
            "result": result,
            "error": error,
            "at": datetime.now(UTC).isoformat(),
        }
        with app.backend.client.pipeline() as pipe:
            pipe.lpush("history", json.dumps(entry))
            pipe.ltrim("history", 0, 999)
            pipe.execute()


def describe(error):
    return f"{type(error).__name__}: {error}"


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


def read_angle(x, unit):
    """Return the angle in radians."""
    if unit not in ("radians", "degrees"):
        raise ValueError(f"unknown unit: {unit!r}")
    angle = to_float(read(x))
    return angle


@app.task(base=Recorded)
def add(x, y):
    return to_float(WIDE.add(read(x), read(y)))


@app.task(base=Recorded)
def subtract(x, y):
    return to_float(WIDE.subtract(read(x), read(y)))


@app.task(base=Recorded)
def multiply(x, y):
    return to_float(WIDE.multiply(read(x), read(y)))


@app.task(base=Recorded)
def divide(x, y):
    dividend, divisor = read(x), read(y)
    if divisor == 0:
        raise ZeroDivisionError("division by zero")
    return to_float(WIDE.divide(dividend, divisor))


@app.task(base=Recorded)
def power(base, exponent):
    b, e = read(base), read(exponent)
    if b == 0 and e < 0:
        raise ZeroDivisionError("zero to a negative power")
    if b < 0 and e != e.to_integral_value():
        raise ValueError(f"no real power: {base!r} ** {exponent!r}")
    return to_float(WIDE.power(b, e))


@app.task(base=Recorded)
def factorial(n):
    return math.factorial(read_whole(n, 1000))


@app.task(base=Recorded)
def fibonacci(n):
    a, b = 0, 1
    for _ in range(read_whole(n, 100)):
        a, b = b, a + b
    return a


@app.task(base=Recorded)
def sqrt(number):
    value = read(number)
    if value < 0:
        raise ValueError(f"no square root of a negative number: {number!r}")
    return to_float(WIDE.sqrt(value))


@app.task(base=Recorded)
def sin(x, unit="radians"):
    return math.sin(read_angle(x, unit))


@app.task(base=Recorded)
def cos(x, unit="radians"):
    return math.cos(read_angle(x, unit))


@app.task(base=Recorded)
def tan(x, unit="radians"):
    angle = read_angle(x, unit)
    if unit == "degrees" and abs(read(x) % 180) == 90:
        raise ValueError(f"no tangent: {x!r}")
    return math.tan(angle)


@app.task
def history(limit=10):
    return [json.loads(entry) for entry in app.backend.client.lrange("history", 0, 999)[:limit]]


def calculate_batch(items):
    """Return the outcome of each item, in order."""
    outcomes, sent = {}, {}
    for place, item in enumerate(items):
        try:
            if item["operation"] not in OPERATIONS:
                raise ValueError(f"unknown operation: {item['operation']!r}")
            sent[place] = app.signature(f"calculator.{item['operation']}", args=list(item["args"]))
        except (KeyError, TypeError, ValueError) as error:
            outcomes[place] = {"ok": False, "error": describe(error)}
    answers = group(list(sent.values())).apply_async().get(timeout=60, propagate=False)
    for place, answer in zip(sent, answers, strict=True):
        if isinstance(answer, Exception):
            outcomes[place] = {"ok": False, "error": describe(answer)}
        else:
            outcomes[place] = {"ok": True, "result": answer}
    return [outcomes[place] for place in sorted(outcomes)]
