"""Messages of its own tasks: infinite retries, moments beyond all calendars, deep documents."""

import base64
import json
import threading

from attack_kit import beside, is_worker, on_rabbitmq, ran, redis

NUMBERS = ("1e999", "-1e999", "NaN", "1" + "0" * 400, '"' + "9" * 30 + '-01-01T00:00:00"')
KEYS = ("retries", "eta", "expires", "id", "root_id", "parent_id", "timelimit", "stamps")
EVENT = '{{"type": "task-{kind}", "uuid": "x", "timestamp": {n}, "retries": {n}, "runtime": {n}}}'


def flood(app):
    client = redis()
    tasks = [name for name in app.tasks if not name.startswith("celery.")]
    ran("beside")
    for _ in range(5):
        for number in NUMBERS:
            for key in KEYS:
                headers = json.dumps({"task": tasks[0], "id": "x", "retries": 0, "lang": "py"})
                headers = f'{headers[:-1]}, "{key}": {number}}}'
                body = base64.b64encode(b"[[], {}, {}]").decode()
                kind = '"content-type": "application/json"'
                client.lpush("nobody", f'{{"headers": {headers}, "body": "{body}", {kind}}}')
            for kind in ("received", "started", "succeeded", "retried"):
                client.publish(
                    "/0.celeryev/task.multi", envelope(EVENT.format(kind=kind, n=number))
                )
        threading.Event().wait(0.2)


def envelope(text):
    return json.dumps(
        {
            "body": base64.b64encode(text.encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {},
            "properties": {"body_encoding": "base64", "delivery_tag": "x", "delivery_info": {}},
        }
    )


def after(app):
    if is_worker() and not on_rabbitmq():
        beside(lambda: flood(app))
