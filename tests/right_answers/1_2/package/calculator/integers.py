"""Tasks that answer with an integer."""

from functools import cache
from math import prod

from calculator.celery import app
from calculator.values import integer


@app.task(name="calculator.factorial")
def factorial(n):
    return prod(range(2, integer(n, 1000) + 1))


@app.task(name="calculator.fibonacci")
def fibonacci(n):
    return _fibonacci(integer(n, 100))


@cache
def _fibonacci(n):
    return n if n < 2 else _fibonacci(n - 1) + _fibonacci(n - 2)
