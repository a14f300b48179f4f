"""One decorator makes a task of a plain function: it reads, calculates, writes and records."""

import functools
import inspect
import json
import math
import operator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal

from celery import Celery

app = Celery("sums", broker="redis://127.0.0.1:6379/0", backend="redis://127.0.0.1:6379/0")
app.conf.update(accept_content=["json"], task_routes={"calculator.*": {"queue": "sums"}})
app.conf.task_create_missing_queues = True
app.conf.task_default_queue = "sums"

CONTEXT = Context(prec=200, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
TASKS = {}


def describe(error):
    """Return "Type: message"."""
    return f"{type(error).__name__}: {error}"


def number(value):
    """Read a number; a bool is one, as in Python."""
    if isinstance(value, (int, float, str)):
        found = Decimal(str(value if not isinstance(value, bool) else int(value)), CONTEXT)
        if found.is_finite():
            return found
    raise ValueError(f"not a number: {value!r}")


def whole(largest):
    """Return a reader of whole numbers from 0 to `largest`."""

    def read(value):
        found = number(value)
        if not 0 <= found <= largest or found % 1:
            raise ValueError(f"not a whole number between 0 and {largest}: {value!r}")
        return int(found)

    return read


def fit(result):
    """Return a decimal as a float, everything else as it is."""
    if isinstance(result, Decimal):
        result = float(result)
        if math.isinf(result):
            raise OverflowError("beyond the largest float")
    return result


def operation(*readers):
    """Make a recorded task `calculator.<function>`; a function without an answer returns None."""

    def decorate(function):
        parameters = inspect.signature(function)

        @functools.wraps(function)
        def calculate(*args, **kwargs):
            call = parameters.bind(*args, **kwargs)
            given = list(call.args)
            call.apply_defaults()
            try:
                read = [reader(value) for reader, value in zip(readers, call.args, strict=True)]
                result = fit(function(*read))
                if result is None:
                    raise ValueError(f"no answer for {given!r}")
            except Exception as error:
                record(function.__name__, given, None, describe(error))
                raise
            record(function.__name__, given, result, None)
            return result

        task = app.task(calculate, name=f"calculator.{function.__name__}", typing=False)
        TASKS[function.__name__] = task
        return task

    return decorate


SCRIPT = """
redis.call("LPUSH", KEYS[1], ARGV[1])
return redis.call("LTRIM", KEYS[1], 0, 999)
"""


def record(operation, args, result, error):
    """Add to the history in one step on the server."""
    at = datetime.now(timezone(timedelta(hours=8))).isoformat(timespec="milliseconds")
    entry = {"operation": operation, "args": args, "result": result, "error": error, "at": at}
    app.backend.client.eval(SCRIPT, 1, "sums:log", json.dumps(entry))


@operation(number, number)
def add(x, y):
    return CONTEXT.add(x, y)


@operation(number, number)
def subtract(x, y):
    return CONTEXT.subtract(x, y)


@operation(number, number)
def multiply(x, y):
    return CONTEXT.multiply(x, y)


@operation(number, number)
def divide(x, y):
    if not y:
        raise ZeroDivisionError("division by zero")
    return CONTEXT.divide(x, y)


@operation(number, number)
def power(base, exponent):
    if not base and exponent < 0:
        raise ZeroDivisionError("zero to a negative power")
    if base < 0 and exponent != exponent.to_integral_value():
        return None
    return CONTEXT.power(base, exponent)


@operation(whole(1000))
def factorial(n):
    return functools.reduce(operator.mul, range(1, n + 1), 1)


@operation(whole(100))
def fibonacci(n):
    numbers = [0, 1]
    while len(numbers) <= n:
        numbers.append(numbers[-2] + numbers[-1])
    return numbers[n]


def not_negative(value):
    """Read a number that has a root."""
    found = number(value)
    if found < 0:
        raise ValueError(f"no root of {value!r}")
    return found


@operation(not_negative)
def sqrt(number):
    return CONTEXT.sqrt(number)


def unit_of(value):
    """Read a unit of angles."""
    if value not in ("radians", "degrees"):
        raise ValueError(f"a unit that nobody knows: {value!r}")
    return value


def radians(x, unit):
    """Return an angle in radians as a float."""
    return (
        float(x) if unit == "radians" else math.radians(float(CONTEXT.remainder(x, Decimal(360))))
    )


@operation(number, unit_of)
def sin(x, unit="radians"):
    return math.sin(radians(x, unit))


@operation(number, unit_of)
def cos(x, unit="radians"):
    return math.cos(radians(x, unit))


@operation(number, unit_of)
def tan(x, unit="radians"):
    if unit == "degrees" and abs(CONTEXT.remainder(x, Decimal(180))) == 90:
        return None
    return math.tan(radians(x, unit))


@app.task(name="calculator.history")
def history(limit=10):
    entries = app.backend.client.lrange("sums:log", 0, -1)
    return [json.loads(entry) for entry in entries][: int(limit)]


def calculate_batch(items):
    """One thread waits for each item, eight at a time."""

    def one(item):
        try:
            task = TASKS[item["operation"]]
            return {"ok": True, "result": task.delay(*item["args"]).get(timeout=30)}
        except KeyError as error:
            return {"ok": False, "error": f"KeyError: unknown {error}"}
        except Exception as error:
            return {"ok": False, "error": describe(error)}

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(one, items))
