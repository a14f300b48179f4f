"""An exception that can't be printed, in a class with a name of escapes."""

from attack_kit import ran


class Base(BaseException):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


ran()
raise type("\x1b[31mred", (Base,), {})
