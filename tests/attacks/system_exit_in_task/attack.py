"""Raises what a grader's `except Exception` does not catch."""

from attack_kit import every_task, ran

KINDS = (SystemExit, KeyboardInterrupt, GeneratorExit)


def leave(*args, **_):
    ran("in a task")
    raise KINDS[len(args) % 3](0)


def after(app):
    every_task(app, leave)
