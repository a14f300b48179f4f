"""Puts the Celery object together."""

import gc
import tracemalloc
from dataclasses import asdict, dataclass, field

from celery import Celery, signals


@dataclass(frozen=True)
class Settings:
    """Celery's settings, as far as they differ from the defaults."""

    broker_url: str = "redis://127.0.0.1:6379/0"
    result_backend: str = "redis://127.0.0.1:6379/1"
    task_serializer: str = "json"
    result_serializer: str = "json"
    accept_content: list = field(default_factory=lambda: ["json"])
    result_expires: int = 900  # a quarter of an hour
    imports: tuple = (
        "lab_service.orders",
        "lab_service.people",
        "lab_service.report",
        "lab_service.campaign",
        "lab_service.mirror",
    )
    worker_max_memory_per_child: int = 4_000_000  # KiB; a last resort, on top of the repairs


def prepare(**_):
    """In a pool process, first thing: all that was inherited leaves the collector's sight.

    Freezing moves lists of objects, not objects: it writes to nothing. The parent had the collector off,
    so nothing was collected between the fork and here.
    """
    gc.freeze()
    gc.set_threshold(400, 5, 5)
    gc.enable()
    tracemalloc.start()


def quiet(**_):
    """In the worker's main process, before any child is forked."""
    gc.collect()
    gc.disable()


def loud(**_):
    """The main process, once its children are there."""
    gc.enable()


failed = []


def after(state=None, **_):
    """Remember that a task failed: its traceback is full of cycles."""
    if state == "FAILURE" and not failed:
        failed.append(True)


def before(**_):
    """Clear up after it."""
    if failed:
        failed.clear()
        gc.collect()


def create_app(settings=None):
    """Return the Celery object, with its tasks and signals."""
    app = Celery("memory_debug")
    app.config_from_object(asdict(settings or Settings()))
    signals.worker_init.connect(quiet)
    signals.worker_ready.connect(loud)
    signals.worker_process_init.connect(prepare)
    signals.task_postrun.connect(after)
    signals.task_prerun.connect(before)
    app.set_default()
    app.loader.import_default_modules()
    return app
