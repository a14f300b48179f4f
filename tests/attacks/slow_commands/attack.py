"""Sorts a hundred thousand words, over and over."""

from attack_kit import beside, is_worker, ran, redis, tried


def slow():
    client = redis()
    script = "for i = 1, 100000 do redis.call('rpush', 'words', i * 7919 % 300007) end"
    tried(client.eval, script, 0)
    ran("beside")
    while True:
        tried(client.execute_command, "SORT", "words", "ALPHA", "STORE", "sorted")
        tried(client.keys, "*")


if not is_worker():
    beside(slow)
