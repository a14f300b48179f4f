"""Lone surrogates: Python holds them, no file and no server does."""

from attack_kit import is_worker, ran

ran()
HALF = "\ud800"


def after(app):
    from celery.result import AsyncResult

    for task in app.tasks.values():
        task.delay = lambda *args, **kwargs: AsyncResult(HALF + "x", app=app)
        task.apply_async = task.delay
        if is_worker() and not task.name.startswith("celery."):
            task.run = lambda *args, **kwargs: {HALF: [HALF, "\udfff\x00"]}
