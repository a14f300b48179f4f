"""The calculator as a package: the app is here, the tasks are in the modules beside."""

from calculator.celery import app
from calculator.integers import factorial, fibonacci
from calculator.reals import add, divide, multiply, power, sqrt, subtract

__all__ = [
    "add",
    "app",
    "divide",
    "factorial",
    "fibonacci",
    "multiply",
    "power",
    "sqrt",
    "subtract",
]
