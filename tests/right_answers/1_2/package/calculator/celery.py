"""The app."""

from celery import Celery


class Settings:
    """Settings as attributes of a class."""

    broker_url = "redis://localhost:6379/0"
    result_backend = "redis://localhost:6379/1"
    task_serializer = result_serializer = "json"
    accept_content = ("json",)
    task_track_started = True
    result_expires = 3600


app = Celery("calculator", include=["calculator.integers", "calculator.reals"])
app.config_from_object(Settings)
