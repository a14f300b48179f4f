"""What the worker would tell is thrown away."""

from attack_kit import is_worker, ran

ran()


def after(app):
    if not is_worker():
        return
    from celery.events.dispatcher import EventDispatcher

    EventDispatcher.send = lambda self, *args, **fields: None
