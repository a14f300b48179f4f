"""The app alone: the tasks are in a module that the worker includes when it starts."""

from celery import Celery

app = Celery(
    "calculator",
    broker="redis://localhost:6379/0",
    backend="redis://localhost:6379/1",
    include=["arithmetic"],
)


def __getattr__(name):
    """`from calculator import add` finds the task that is registered under its full name."""
    app.loader.import_default_modules()
    try:
        return app.tasks[f"calculator.{name}"]
    except KeyError:
        raise AttributeError(name) from None
