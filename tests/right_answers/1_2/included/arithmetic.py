"""Shared tasks, which name no app; each has its full name, as the module's would be another one."""

import math
from fractions import Fraction

from celery import shared_task


def task(function):
    return shared_task(function, name=f"calculator.{function.__name__}")


def number(value):
    """Return an int or float; ValueError for what is no finite number."""
    kind = type(value)
    if kind is str:
        try:
            value = float(value) if set(value.lower()) & set(".e") else int(value)
        except ValueError:
            raise ValueError(f"{value!r} is no number") from None
    elif kind not in (int, float):
        raise ValueError(f"{value!r} is no number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return value


def exact(value):
    """Return the number as it is written, not as the machine keeps it."""
    return Fraction(repr(number(value)))


def whole(value, maximum):
    value = number(value)
    if value != int(value) or not 0 <= value <= maximum:
        raise ValueError(f"{value!r} is no whole number from 0 to {maximum}")
    return int(value)


@task
def add(x, y):
    return float(exact(x) + exact(y))


@task
def subtract(x, y):
    return float(exact(x) - exact(y))


@task
def multiply(x, y):
    return float(exact(x) * exact(y))


@task
def divide(x, y):
    x, y = exact(x), exact(y)
    if y == 0:
        raise ZeroDivisionError("division by zero")
    return float(x / y)


@task
def power(base, exponent):
    base, exponent = float(number(base)), float(number(exponent))
    if base == 0 and exponent < 0:
        raise ZeroDivisionError("0 to a negative power")
    if base < 0 and exponent != int(exponent):
        raise ValueError(f"{base!r} to the power {exponent!r} is not real")
    return math.pow(base, exponent)


@task
def factorial(n):
    return math.factorial(whole(n, 1000))


@task
def fibonacci(n):
    this, following = 0, 1
    for _ in range(whole(n, 100)):
        this, following = following, this + following
    return this


@task
def sqrt(number_):
    if number(number_) < 0:
        raise ValueError(f"{number_!r} has no real root")
    return math.sqrt(number(number_))
