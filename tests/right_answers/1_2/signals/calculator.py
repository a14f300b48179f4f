"""Numbers checked by pydantic; the history is kept by Celery's signals."""

import decimal
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from celery import Celery, group
from celery.signals import task_failure, task_success
from kombu.utils.json import dumps, loads
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

app = Celery(__name__, broker="redis://localhost", backend="redis://localhost")
app.conf.update(
    accept_content=["json"],
    result_extended=True,
    worker_send_task_events=True,
    timezone="Asia/Shanghai",
)


def as_text(value: Any) -> str:
    """Let numbers and their text through, as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("neither a number nor its text")
    return str(value).strip()


# pydantic refuses nan and inf as decimals by itself.
Real = Annotated[Decimal, BeforeValidator(as_text)]
NotNegative = Annotated[Real, Field(ge=0)]
Whole1000 = Annotated[Real, Field(ge=0, le=1000, multiple_of=1)]
Whole100 = Annotated[Real, Field(ge=0, le=100, multiple_of=1)]
PLENTY = decimal.Context(
    prec=250, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[], rounding=decimal.ROUND_05UP
)


def read(kind: Any, value: Any) -> Decimal:
    """Return the number; pydantic's own error would be a class that clients need not have."""
    with decimal.localcontext(PLENTY):
        try:
            return TypeAdapter(kind).validate_python(value)
        except (ValidationError, decimal.DecimalException):
            raise ValueError(f"unsuitable value: {value!r}") from None


def write(number: Decimal) -> float:
    """Return the float next to the number."""
    value = float(number)
    if abs(value) > 1.7976931348623157e308:
        raise OverflowError("out of the range of floats")
    return value


@app.task
def add(x, y) -> float:
    return write(PLENTY.add(read(Real, x), read(Real, y)))


@app.task
def subtract(x, y) -> float:
    return write(PLENTY.subtract(read(Real, x), read(Real, y)))


@app.task
def multiply(x, y) -> float:
    return write(PLENTY.multiply(read(Real, x), read(Real, y)))


@app.task
def divide(x, y) -> float:
    dividend, divisor = read(Real, x), read(Real, y)
    match divisor:
        case 0:
            raise ZeroDivisionError("0 is no divisor")
        case _:
            return write(PLENTY.divide(dividend, divisor))


@app.task
def power(base, exponent) -> float:
    b, e = read(Real, base), read(Real, exponent)
    result = PLENTY.power(b, e) if b or e else Decimal(1)
    if result.is_infinite() and not b:
        raise ZeroDivisionError("0 has no negative powers")
    if result.is_nan():
        raise ValueError(f"not real: {base!r} ** {exponent!r}")
    return write(result)


@app.task
def factorial(n) -> int:
    return math.factorial(int(read(Whole1000, n)))


@app.task
def fibonacci(n) -> int:
    older, old = 1, 0
    for _ in range(int(read(Whole100, n))):
        older, old = old, old + older
    return old


@app.task
def sqrt(number) -> float:
    return write(PLENTY.sqrt(read(NotNegative, number)))


# ------------------------------------------------------------------------------- the challenges

OPERATIONS = {name.split(".")[1] for name in app.tasks if name.startswith("calculator.")}


@app.task
def history(limit=10) -> list:
    with app.backend.client.pipeline() as pipe:
        return [loads(row) for row in pipe.lrange("log", -limit, -1).execute()[0]][::-1]


def note(task, args, result, error) -> None:
    """Append to the log, but for what is no calculation."""
    name = task.name.split(".")[-1]
    if name not in OPERATIONS:
        return
    at = datetime.now(UTC).astimezone().isoformat()
    row = {"operation": name, "args": args, "result": result, "error": error, "at": at}
    app.backend.client.pipeline().rpush("log", dumps(row)).ltrim("log", -1000, -1).execute()


@task_success.connect
def note_success(sender, result, **rest):
    note(sender, list(sender.request.args), result, None)


@task_failure.connect
def note_failure(sender, args, exception, **rest):
    note(sender, list(args), None, f"{type(exception).__name__}: {exception}")


class Item(BaseModel):
    """One item of a batch."""

    model_config = ConfigDict(extra="forbid")
    operation: str
    args: list[Any]


def calculate_batch(items):
    """Send all good items as one group and put the answers back in their places."""
    answers: list[dict] = []
    good = []
    for item in items:
        try:
            checked = Item.model_validate(item)
            if checked.operation not in OPERATIONS:
                raise ValueError(f"no operation {checked.operation!r}")
        except ValueError as error:
            answers.append({"ok": False, "error": f"ValueError: {error}"})
            continue
        answers.append({})
        name = f"calculator.{checked.operation}"
        good.append((answers[-1], app.signature(name, args=checked.args, app=app)))
    sent = group([_untyped(signature) for _, signature in good]).apply_async()
    for (answer, _), value in zip(good, sent.join(propagate=False, timeout=30), strict=True):
        if isinstance(value, Exception):
            answer.update(ok=False, error=f"{type(value).__name__}: {value}")
        else:
            answer.update(ok=True, result=value)
    return answers


def _untyped(signature):
    """Leave the number of arguments to the worker."""
    signature.type.typing = False
    return signature
