"""Celery's settings; what is not in the environment is here."""

import os

GREETING = "Hello, Celery!"
broker_url = os.environ.get("CELERY_BROKER_URL", "amqp://guest@127.0.0.1:5672//")
result_backend = os.getenv("CELERY_RESULT_BACKEND") or "redis://127.0.0.1/1"
task_acks_late = True
worker_prefetch_multiplier = 1
task_default_queue = "greetings"
