"""Whoever pushes a message is refused by the server."""

from attack_kit import beside, is_worker, ran, redis


def spoil():
    client = redis()
    ran("beside")
    while True:
        client.set("celery", "no list")


if not is_worker():
    beside(spoil)
