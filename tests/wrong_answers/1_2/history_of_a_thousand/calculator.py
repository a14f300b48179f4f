"""A calculator whose sums are done by Celery workers.

From top to bottom: the app, how a value is read and an answer is written, the base class that
keeps the history, the tasks, and the batch that a client calls.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import MAX_EMAX, MIN_EMIN, ROUND_05UP, Context, Decimal
from typing import Any

from celery import Celery, Signature, Task, group
from kombu.utils.json import dumps, loads

# The app is called like its module, so a task has one name wherever the module is run from. The
# URLs are defaults for a machine of one's own: Celery reads CELERY_BROKER_URL and
# CELERY_RESULT_BACKEND from the environment first. Without a backend nobody could read a result.
app = Celery(
    "calculator",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)
# JSON is Celery's default already. `accept_content` says it for what comes in, too: a worker that
# accepts pickle runs whatever code a message holds.
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])


# ------------------------------------------------------------------- reading and writing numbers

# All arithmetic happens in this context, never in the process's own one, so no task can leave
# anything behind for the next. No float, and no midpoint between two floats, has more than 768
# digits. ROUND_05UP keeps the 800th digit of an inexact result from being 0 or 5, so the result
# stays on its own side of every midpoint, and `float()` rounds as if it had seen all the digits:
# once, to the nearest float. Exponents up to 1e18 cost nothing, because nothing is written out.
# With no traps, the decimal module answers NaN instead of raising exceptions of its own.
EXACT = Context(prec=800, rounding=ROUND_05UP, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])

LARGEST_FACTORIAL = 1000
LARGEST_FIBONACCI = 100


def to_decimal(value: object) -> Decimal:
    """Read an int, a float or a numeric string as the decimal number that it shows.

    Raises:
        ValueError: the value is anything else, infinite, or not a number.
    """
    # bool is a kind of int; whether true + true makes sense is left open, here it does not.
    if isinstance(value, int | float | str | Decimal) and not isinstance(value, bool):
        # str() of a float is the shortest text that means it: 0.1, not 0.1000000000000000055...
        found = Decimal(str(value), EXACT)
        if found.is_finite():
            return found
    raise ValueError(f"not a finite number: {value!r}")


def to_whole(value: object, largest: int) -> int:
    """Read a whole number from 0 to `largest`; 5, 5.0 and "5" are all the same."""
    found = to_decimal(value)
    # int() comes last: it would cut 2.7 down to 2, and write out all the digits of 1e999999.
    if not 0 <= found <= largest or found != found.to_integral_value():
        raise ValueError(f"not a whole number from 0 to {largest}: {value!r}")
    return int(found)


def to_float(result: Decimal) -> float:
    """Return the float nearest to `result`; OverflowError where that would be infinite."""
    answer = float(result)
    if not math.isfinite(answer):
        raise OverflowError("the result is larger than any float")
    return answer


# ------------------------------------------------------------------------------------ the history

HISTORY = "calculator:history"
HISTORY_KEPT = 1000


class Calculation(Task):
    """A task that writes how it ended into the history, in the result backend's own Redis."""

    # Let the worker judge the arguments. Otherwise `delay` raises TypeError in the client, and one
    # item with an argument too few would keep a whole batch from being sent.
    typing = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the calculation; only what a worker runs is recorded."""
        if self.request.called_directly:
            return self.run(*args, **kwargs)
        # Recorded here, before the result is stored. `on_success`, `on_failure` and the signals
        # come after it: a client that has its result could then read a history without it.
        try:
            result = self.run(*args, **kwargs)
        except Exception as error:
            self.record(args, kwargs, None, describe(error))
            raise
        self.record(args, kwargs, result, None)
        return result

    def record(self, args: tuple, kwargs: dict, result: object, error: str | None) -> None:
        """Put one entry in front of the history and let the oldest fall off its end."""
        entry = {
            "operation": self.name.rpartition(".")[2],
            "args": positional(self.run, args, kwargs),
            "result": result,
            "error": error,
            "at": datetime.now(UTC).isoformat(),
        }
        # One list in Redis, not one in each process. The pipeline is a transaction (MULTI), so two
        # workers at once lose nothing: nobody reads the history in order to write it.
        with app.backend.client.pipeline() as transaction:
            transaction.lpush(HISTORY, dumps(entry))
            transaction.ltrim(HISTORY, 0, HISTORY_KEPT - 1)
            transaction.execute()


def describe(error: BaseException) -> str:
    """Return "Type: message"."""
    return f"{type(error).__name__}: {error}"


def positional(function: Callable, args: tuple, kwargs: dict) -> list:
    """Return the arguments in the order of the function's parameters, as far as they fit it."""
    try:
        return list(inspect.signature(function).bind(*args, **kwargs).args)
    except TypeError:
        return list(args)


# -------------------------------------------------------------------------------------- the tasks

# What the page and the batch may ask for, by name: "add" -> the task calculator.add.
OPERATIONS: dict[str, Task] = {}


def calculation(function: Callable) -> Task:
    """Make a function a task that is recorded, and one of the OPERATIONS."""
    task = app.task(function, base=Calculation)
    OPERATIONS[function.__name__] = task
    return task


@calculation
def add(x, y):
    """Return x + y."""
    return to_float(EXACT.add(to_decimal(x), to_decimal(y)))


@calculation
def subtract(x, y):
    """Return x - y."""
    return to_float(EXACT.subtract(to_decimal(x), to_decimal(y)))


@calculation
def multiply(x, y):
    """Return x * y."""
    return to_float(EXACT.multiply(to_decimal(x), to_decimal(y)))


@calculation
def divide(x, y):
    """Return x / y; ZeroDivisionError for every zero, 0/0 too."""
    dividend, divisor = to_decimal(x), to_decimal(y)
    # Ask the number that was read, not the argument: "0.00" == 0 is false.
    if not divisor:
        raise ZeroDivisionError(f"{x!r} divided by zero")
    return to_float(EXACT.divide(dividend, divisor))


@calculation
def power(base, exponent):
    """Return base ** exponent."""
    b, e = to_decimal(base), to_decimal(exponent)
    if not e:
        return 1.0  # 0 ** 0 as well, as in Python
    if not b and e < 0:
        raise ZeroDivisionError(f"{base!r} to the negative power {exponent!r}")
    if b < 0 and e != e.to_integral_value():
        raise ValueError(f"no real number is {base!r} to the power {exponent!r}")
    # `plus` rounds a base of thousands of digits to the context's 800; the logarithm behind a
    # fractional power would take seconds for all of them.
    return to_float(EXACT.power(EXACT.plus(b), e))


@calculation
def factorial(n):
    """Return n! as an exact int."""
    return math.factorial(to_whole(n, LARGEST_FACTORIAL))


@calculation
def fibonacci(n):
    """Return the n-th Fibonacci number as an exact int: 0, 1, 1, 2, 3, 5, ..."""
    this, following = 0, 1
    for _ in range(to_whole(n, LARGEST_FIBONACCI)):
        this, following = following, this + following
    return this


@calculation
def sqrt(number):
    """Return the square root."""
    radicand = to_decimal(number)
    if radicand < 0:
        raise ValueError(f"no real square root: {number!r}")
    # In decimal, because the root may fit a float where the number itself does not: 1e600.
    return to_float(EXACT.sqrt(radicand))


@calculation
def sin(x, unit="radians"):
    """Return the sine of the angle x."""
    return sine_and_cosine(x, unit)[0]


@calculation
def cos(x, unit="radians"):
    """Return the cosine of the angle x."""
    return sine_and_cosine(x, unit)[1]


@calculation
def tan(x, unit="radians"):
    """Return the tangent of the angle x; ValueError where it has none."""
    sine, cosine = sine_and_cosine(x, unit)
    if not cosine:
        raise ValueError(f"no tangent at {x!r} {unit}")
    return sine / cosine


def sine_and_cosine(x: object, unit: object) -> tuple[float, float]:
    """Return both for the angle x; they are exact at every multiple of 90 degrees."""
    angle = to_decimal(x)
    if unit == "radians":
        radians, quarters = to_float(angle), 0
    elif unit == "degrees":
        to_float(angle)  # refuses what is too large, as for radians
        # Whole quarter turns come off exactly, in decimal. pi is not a float, so the cosine of
        # math.radians(90) is 6e-17, and the tangent would be 1.6e16 instead of none.
        quarter_turns, rest = EXACT.divmod(EXACT.remainder(angle, Decimal(360)), Decimal(90))
        radians, quarters = math.radians(rest), int(quarter_turns) % 4
    else:
        raise ValueError(f"unknown unit: {unit!r}")
    sine, cosine = math.sin(radians), math.cos(radians)
    for _ in range(quarters):
        sine, cosine = cosine, -sine
    return sine + 0.0, cosine + 0.0  # makes 0.0 of -0.0


@app.task
def history(limit=1000):
    """Return the latest calculations, at most `limit` of them, the newest first."""
    wanted = to_whole(limit, largest=10**9)
    # One more than wanted, because LRANGE 0 -1 would mean everything where nothing is wanted.
    entries = app.backend.client.lrange(HISTORY, 0, wanted)
    return [loads(entry) for entry in entries[:wanted]]


# -------------------------------------------------------------------------------------- the batch


def calculate_batch(items: Iterable[Any], timeout: float = 60.0) -> list[dict[str, Any]]:
    """Have the workers do many calculations at once; called in a client process, not in a task.

    Args:
        items: calculations such as {"operation": "add", "args": [1, 2]}.
        timeout: how long to wait for all of them, in seconds.

    Returns:
        For each item, in its place, {"ok": True, "result": ...} or
        {"ok": False, "error": "Type: message"}.

    Raises:
        celery.exceptions.TimeoutError: the workers did not finish in time.
    """
    jobs = [job(item) for item in items]
    # Everything is published before anything is waited for: that is what makes it parallel.
    sent = group([j for j in jobs if isinstance(j, Signature)]).apply_async()
    # propagate=False gives errors back as values in their places; the first one would be raised
    # otherwise, and the rest would be lost.
    answers = iter(sent.get(timeout=timeout, propagate=False))
    return [outcome(next(answers) if isinstance(j, Signature) else j) for j in jobs]


def job(item: Any) -> Signature | Exception:
    """Return what to send for an item, or what is wrong with it."""
    try:
        operation, args = item["operation"], item["args"]
        if operation not in OPERATIONS:
            return ValueError(f"unknown operation: {operation!r}")
        if not isinstance(args, list | tuple):
            return ValueError(f"the arguments are not a list: {args!r}")
        dumps(args)  # an argument that JSON has no words for would stop the group half-way
        return OPERATIONS[operation].s(*args)
    except (KeyError, TypeError, ValueError) as error:
        return ValueError(f"not a calculation: {item!r} ({describe(error)})")


def outcome(answer: Any) -> dict[str, Any]:
    """Return the batch's entry for one answer."""
    if isinstance(answer, BaseException):
        return {"ok": False, "error": describe(answer)}
    return {"ok": True, "result": answer}
