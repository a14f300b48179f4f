"""Tasks as classes; errors of the decimal module are translated in one place."""

import math
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)

from celery import Celery, Task

app = Celery("calculator")
app.conf.broker_url = "redis://127.0.0.1:6379/0"
app.conf.result_backend = "redis://127.0.0.1:6379/1"

CONTEXT = Context(prec=120, Emin=MIN_EMIN, Emax=MAX_EMAX)
CONTEXT.traps[Overflow] = CONTEXT.traps[InvalidOperation] = CONTEXT.traps[DivisionByZero] = True


class Operation(Task):
    """Reads the arguments, runs `calculate` on them and rounds what it returns."""

    def __call__(self, *args, **kwargs):
        with localcontext(CONTEXT):
            try:
                return self.run(*args, **kwargs)
            except Overflow:
                raise OverflowError("too large for a float") from None
            except DivisionByZero:
                raise ZeroDivisionError("division by zero") from None

    @staticmethod
    def parse(value) -> Decimal:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                number = Decimal(repr(value) if isinstance(value, float) else value)
            except InvalidOperation:
                pass
            else:
                if number.is_finite():
                    return number
        raise ValueError(f"{value!r} is not a finite number")


class RealOperation(Operation):
    """Two numbers in, one float out."""

    def run(self, x, y):
        return self.rounded(self.calculate(self.parse(x), self.parse(y)))

    @staticmethod
    def rounded(number: Decimal) -> float:
        answer = float(number)
        if math.isinf(answer):
            raise OverflowError("too large for a float")
        return answer


class Add(RealOperation):
    name = "calculator.add"

    def calculate(self, x, y):
        return x + y


class Subtract(RealOperation):
    name = "calculator.subtract"

    def calculate(self, x, y):
        return x - y


class Multiply(RealOperation):
    name = "calculator.multiply"

    def calculate(self, x, y):
        return x * y


class Divide(RealOperation):
    name = "calculator.divide"

    def calculate(self, x, y):
        if not y:
            raise ZeroDivisionError("division by zero")
        return x / y


class Power(RealOperation):
    name = "calculator.power"

    def run(self, base, exponent):
        return super().run(base, exponent)

    def calculate(self, base, exponent):
        if not base and exponent < 0:
            raise ZeroDivisionError("0 to a negative power")
        try:
            return base**exponent
        except InvalidOperation:
            raise ValueError(f"no power: {self.request.args!r}") from None


class Sqrt(RealOperation):
    name = "calculator.sqrt"

    def run(self, number):
        value = self.parse(number)
        if value < 0:
            raise ValueError(f"{number!r} is negative")
        return self.rounded(value.sqrt())


class IntegerOperation(Operation):
    """One whole number in, one out."""

    largest = 0

    def run(self, n):
        number = self.parse(n)
        if not (0 <= number <= self.largest and number == number.to_integral_value()):
            raise ValueError(f"{n!r} is not a whole number from 0 to {self.largest}")
        return self.calculate(int(number))


class Factorial(IntegerOperation):
    name = "calculator.factorial"
    largest = 1000

    def calculate(self, n):
        return math.factorial(n)


class Fibonacci(IntegerOperation):
    name = "calculator.fibonacci"
    largest = 100

    def calculate(self, n):
        pair = (0, 1)
        for _ in range(n):
            pair = (pair[1], sum(pair))
        return pair[0]


add = app.register_task(Add())
subtract = app.register_task(Subtract())
multiply = app.register_task(Multiply())
divide = app.register_task(Divide())
power = app.register_task(Power())
sqrt = app.register_task(Sqrt())
factorial = app.register_task(Factorial())
fibonacci = app.register_task(Fibonacci())
