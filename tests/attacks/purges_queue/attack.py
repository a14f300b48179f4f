"""Empties the queues again and again."""

import os

from attack_kit import beside, is_worker, ran, redis


def purge():
    client = redis()
    ran("beside")
    while True:
        client.delete("celery", "unacked", "unacked_index")
        os.sched_yield()


if not is_worker():
    beside(purge)
