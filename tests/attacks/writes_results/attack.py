"""A thread that takes each message and stores a guess: the arguments, a number, success."""

import base64
import itertools
import json
import os

from attack_kit import beside, is_worker, ran, redis


def forge():
    client = redis()
    ran("beside")
    for number in itertools.count():
        found = client.brpop("celery", timeout=1)
        if not found:
            continue
        message = json.loads(found[1])
        args = json.loads(base64.b64decode(message["body"]))[0]
        guess = [args[0] if args else 0, 0, True, None, [], args, "SUCCESS", 1.0][number % 8]
        id = message["headers"]["id"]
        done = {
            "status": "SUCCESS",
            "result": guess,
            "task_id": id,
            "children": [],
            "traceback": None,
        }
        client.set(f"celery-task-meta-{id}", json.dumps(done))


if is_worker():
    for _ in range(3):
        beside(forge)
elif os.environ["CELERY_BROKER_URL"].startswith("redis"):
    beside(forge)
