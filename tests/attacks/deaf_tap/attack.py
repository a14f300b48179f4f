"""Sends more than a reader of all commands can read, for as long as it lives."""

from attack_kit import beside, is_worker, ran, redis, tried


def flood():
    client = redis()
    ran("beside")
    while True:
        pipe = client.pipeline(transaction=False)
        for _ in range(20):
            pipe.set("flood", b"\x00" * 250_000)
        tried(pipe.execute)


if not is_worker():
    for _ in range(4):
        beside(flood)
