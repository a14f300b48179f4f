"""Tells of tasks that nobody ran: started, retried, succeeded, each of them, many times."""

import base64
import itertools
import json
import os
import time
import uuid

from attack_kit import beside, is_worker, ran, redis

KINDS = ("received", "started", "succeeded", "retried", "failed", "revoked", "sent")
ODD = (
    "null",
    "[]",
    '{"type": 5}',
    '{"type": "task-started", "uuid": {"a": []}}',
    "\xff",
    "[" * 500,
)


def say(client, body):
    document = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"hostname": "lab@lab"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_mode": 1,
            "priority": 0,
            "delivery_info": {"exchange": "celeryev", "routing_key": "task.multi"},
        },
    }
    client.publish("/0.celeryev/task.multi", json.dumps(document))


def forge():
    client = redis()
    ran("beside")
    for number in itertools.count():
        waiting = [json.loads(m)["headers"]["id"] for m in client.lrange("celery", 0, 20)]
        for id in waiting or [str(uuid.UUID(int=number))]:
            events = [
                {"type": f"task-{kind}", "uuid": id, "timestamp": time.time(), "pid": os.getpid(),
                 "retries": number, "eta": "never", "clock": number, "hostname": "lab@lab",
                 "utcoffset": 0, "result": "0", "runtime": 0.0}
                for kind in KINDS
            ]  # fmt: skip
            say(client, json.dumps(events))
        say(client, ODD[number % len(ODD)])
        client.publish("/0.celeryev/task.multi", b"\xff\xfe no message at all")


if not is_worker() and "redis" in os.environ["CELERY_BROKER_URL"]:
    beside(forge)
