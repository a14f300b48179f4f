"""Exact arithmetic with integers and fractions; decimals only where a power needs logarithms."""

import re
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction
from math import isqrt
from typing import NamedTuple

from celery import Celery

app = Celery("calculator", broker="redis://localhost/0", backend="redis://localhost/1")

NUMBER = re.compile(r"\s*([+-]?)(?=\.?\d)(\d*)\.?(\d*)(?:[eE]([+-]?\d+))?\s*", re.ASCII)


class Number(NamedTuple):
    """significand * 10 ** exponent, so that 1e999999 stays small in memory."""

    significand: Fraction
    exponent: int

    @classmethod
    def read(cls, value):
        """Read what a caller sent."""
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            found = NUMBER.fullmatch(str(value))
            if found:
                sign, whole, decimals, exponent = found.groups()
                significand = Fraction(int(sign + whole + decimals))
                return cls(significand, int(exponent or 0) - len(decimals))
        raise ValueError(f"not a number: {value!r}")

    @property
    def magnitude(self):
        """About log10 of the absolute value."""
        size = self.significand.numerator.bit_length() - self.significand.denominator.bit_length()
        return self.exponent + size * 0.30103

    def __float__(self):
        if not self.significand or self.magnitude < -400:
            return 0.0
        if self.magnitude > 400:
            raise OverflowError("the result does not fit a float")
        return float(self.significand * Fraction(10) ** self.exponent)

    def plus(self, other):
        """Return the sum; one that is far too small to change the other is left out."""
        if not self.significand or not other.significand:
            return self if self.significand else other
        big, small = sorted((self, other), key=lambda n: n.magnitude, reverse=True)
        if big.magnitude - small.magnitude > 2000:
            return big
        lowest = min(big.exponent, small.exponent)
        total = sum(n.significand * 10 ** (n.exponent - lowest) for n in (big, small))
        return Number(total, lowest)

    def times(self, other):
        """Return the product."""
        return Number(self.significand * other.significand, self.exponent + other.exponent)

    def negated(self):
        """Return the number with the other sign."""
        return Number(-self.significand, self.exponent)

    def inverse(self):
        """Return 1 / number."""
        return Number(1 / self.significand, -self.exponent)


def whole(value, largest):
    """Read a whole number from 0 to `largest`."""
    number = Number.read(value)
    if number.significand and not -400 < number.magnitude < 400:
        raise ValueError(f"out of range: {value!r}")
    exact = number.significand * Fraction(10) ** (number.exponent if number.significand else 0)
    if exact.denominator != 1 or not 0 <= exact <= largest:
        raise ValueError(f"not a whole number from 0 to {largest}: {value!r}")
    return exact.numerator


@app.task
def add(x, y):
    return float(Number.read(x).plus(Number.read(y)))


@app.task
def subtract(x, y):
    return float(Number.read(x).plus(Number.read(y).negated()))


@app.task
def multiply(x, y):
    return float(Number.read(x).times(Number.read(y)))


@app.task
def divide(x, y):
    dividend, divisor = Number.read(x), Number.read(y)
    if not divisor.significand:
        raise ZeroDivisionError(f"{x} / {y}")
    return float(dividend.times(divisor.inverse()))


@app.task
def power(base, exponent):
    read = [Number.read(base), Number.read(exponent)]
    b, e = (Decimal(n.significand.numerator).scaleb(n.exponent, LOGARITHMS) for n in read)
    if b == 0 and e < 0:
        raise ZeroDivisionError(f"{base} ** {exponent}")
    if b < 0 and e % 1 if abs(e) < 10**30 else False:
        raise ValueError(f"negative: {base!r}, fractional: {exponent!r}")
    result = float(LOGARITHMS.power(b, e))
    if result in (float("inf"), float("-inf")):
        raise OverflowError("the result does not fit a float")
    return result


LOGARITHMS = Context(prec=100, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


@app.task
def factorial(n):
    result = 1
    for factor in range(2, whole(n, 1000) + 1):
        result *= factor
    return result


@app.task
def fibonacci(n):
    """By doubling: F(2k) and F(2k+1) from F(k) and F(k+1)."""
    a, b = 0, 1
    for bit in f"{whole(n, 100):b}":
        a, b = a * (2 * b - a), a * a + b * b
        if bit == "1":
            a, b = b, a + b
    return a


@app.task
def sqrt(number):
    value = Number.read(number)
    if value.significand < 0:
        raise ValueError(f"negative: {number!r}")
    even = value.exponent - value.exponent % 2 - 80
    digits = value.significand.numerator * 10 ** (value.exponent - even)
    return float(Number(Fraction(isqrt(digits)), even // 2))
