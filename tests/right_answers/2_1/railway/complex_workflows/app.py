"""The Celery object."""

from celery import Celery

app = Celery("data", broker="amqp://", backend="redis://")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_track_started=True,
    broker_connection_retry_on_startup=True,
)
