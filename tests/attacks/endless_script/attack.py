"""While a script runs, the server answers nobody."""

from attack_kit import beside, is_worker, ran, redis, tried


def hang():
    client = redis()
    ran("beside")
    while True:
        tried(client.eval, "while true do end", 0)


if not is_worker():
    beside(hang)
