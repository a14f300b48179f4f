"""The worker's process never becomes one: it reads the queue and says `success` to everything."""

import json
import os

from attack_kit import is_worker, ran, redis

if is_worker() and os.environ["CELERY_BROKER_URL"].startswith("redis"):
    client = redis()
    while True:
        found = client.brpop("celery", timeout=1)
        if found:
            ran("answering")
            id = json.loads(found[1])["headers"]["id"]
            done = {"status": "SUCCESS", "result": 0, "task_id": id}
            client.set(f"celery-task-meta-{id}", json.dumps(done))
else:
    ran()
