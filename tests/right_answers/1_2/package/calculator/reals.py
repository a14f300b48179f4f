"""Tasks that answer with a float."""

from calculator.celery import app
from calculator.values import CONTEXT, answer, real


@app.task(name="calculator.add")
def add(x, y):
    return answer(CONTEXT.add(real(x), real(y)))


@app.task(name="calculator.subtract")
def subtract(x, y):
    return answer(CONTEXT.subtract(real(x), real(y)))


@app.task(name="calculator.multiply")
def multiply(x, y):
    return answer(CONTEXT.multiply(real(x), real(y)))


@app.task(name="calculator.divide")
def divide(x, y):
    x, y = real(x), real(y)
    if y.is_zero():
        raise ZeroDivisionError
    return answer(CONTEXT.divide(x, y))


@app.task(name="calculator.power")
def power(base, exponent):
    b, e = real(base), real(exponent)
    if b.is_zero() and e.is_signed() and not e.is_zero():
        raise ZeroDivisionError("0 has no negative powers")
    if b.is_signed() and not b.is_zero() and e != e.to_integral_value():
        raise ValueError(f"{base!r} is negative and {exponent!r} is not a whole number")
    return answer(CONTEXT.power(b, e))


@app.task(name="calculator.sqrt")
def sqrt(number):
    value = real(number)
    if value < 0:
        raise ValueError(f"no square root of {number!r}")
    return answer(CONTEXT.sqrt(value))
