"""The app, and one registered instance of each task class."""

from celery import Celery

from retry_tasks.jobs import CustomRetry, Exponential, Unreliable
from retry_tasks.pages import FetchUrl

app = Celery("retries", broker="redis://localhost:6379/0", backend="redis://localhost:6379/3")
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1
for kind in (Unreliable, Exponential, CustomRetry, FetchUrl):
    app.register_task(kind())
