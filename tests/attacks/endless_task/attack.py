"""Calculates for ever."""

from attack_kit import every_task, ran


def work(*_, **__):
    ran("in a task")
    while True:
        pass


def after(app):
    every_task(app, work)
