"""Each queue is a process of the broker that others use too."""

import os

from attack_kit import is_worker, on_rabbitmq, ran, won
from kombu import Connection

MANY = 3000

ran()
if not is_worker() and on_rabbitmq():
    with Connection(os.environ["CELERY_BROKER_URL"]) as link:
        channel = link.channel()
        try:
            for number in range(MANY):
                channel.queue_declare(f"crowd-{number}", durable=False, auto_delete=False)
            won(f"{MANY} queues")
        except Exception:
            ran(f"refused after {number}")
