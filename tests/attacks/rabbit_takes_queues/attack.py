"""Whoever comes after it finds the queue locked, or gone."""

import os

from attack_kit import beside, is_worker, ran, tried
from kombu import Connection


def take():
    with Connection(os.environ["CELERY_BROKER_URL"]) as link:
        channel = link.channel()
        ran("beside")
        while True:
            tried(channel.queue_delete, "celery")
            tried(channel.queue_declare, "celery", exclusive=True, auto_delete=False)
            if not link.connected or not channel.is_open:
                tried(link.ensure_connection)
                channel = link.channel()


if not is_worker():
    beside(take)
