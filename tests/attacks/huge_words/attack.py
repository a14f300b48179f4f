"""An error message that fills any report."""

from attack_kit import every_task, ran


def fail(*_, **__):
    ran("in a task")
    raise ValueError("x" * 10_000_000)


def after(app):
    every_task(app, fail)
