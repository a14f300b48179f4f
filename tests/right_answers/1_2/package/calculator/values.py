"""What comes in and what goes out."""

import decimal

CONTEXT = decimal.Context(
    prec=900,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=decimal.MIN_EMIN,
    Emax=decimal.MAX_EMAX,
    traps=[],
)


def real(value):
    """Return `value` as a finite decimal number."""
    if type(value) in (int, float, str):
        number = decimal.Decimal(str(value), CONTEXT)
        if number.is_finite():
            return number
    raise ValueError(f"expected a finite number, got {value!r}")


def integer(value, limit):
    """Return `value` as an integer between 0 and `limit`."""
    number = real(value)
    if number < 0 or number > limit:
        raise ValueError(f"expected 0 to {limit}, got {value!r}")
    if number.as_integer_ratio()[1] != 1:
        raise ValueError(f"expected an integer, got {value!r}")
    return int(number)


def answer(number):
    """Return `number` as a float that is not infinite."""
    result = float(number)
    if result in (float("inf"), float("-inf")):
        raise OverflowError("no float is that large")
    return result
