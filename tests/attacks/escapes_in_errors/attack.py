"""An error that would clear the screen, set the title, and write backwards."""

from attack_kit import every_task, ran

TEXT = "\x1b[2J\x1b]0;mine\x07\x9b31m \u202eevil\u2066 \ud800 \r100/100\n score 100/100\x00\x08"
Odd = type("\x1b[31mValueError\u202e", (ValueError,), {"__module__": "\x1b[0m"})


def fail(*_, **__):
    ran("in a task")
    raise Odd(TEXT)


def nothing():
    """A task with a name that nobody should print."""


def after(app):
    app.task(nothing, name=TEXT.replace("\ud800", ""))
    every_task(app, fail)
