"""Whoever wants to kill or to measure a child of the pool finds none."""

from attack_kit import is_worker, ran

ran()


def after(app):
    if is_worker():
        app.conf.worker_pool = "threads"
