"""Leaves with the status of success as soon as it is asked for anything."""

import os

from attack_kit import every_task, ran


def leave(*_, **__):
    ran("in a task")
    os._exit(0)


def after(app):
    every_task(app, leave)
