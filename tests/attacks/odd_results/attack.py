"""Writes each result itself: halves of characters, depth, doubled keys, endless numbers."""

import itertools

from attack_kit import every_task, ran, redis

FORMS = [
    b'{"status": "SUCCESS", "result": NaN}',
    b'{"status": "SUCCESS", "result": 1, "result": [2], "status": "SUCCESS"}',
    b'{"status": "SUCCESS", "result": ' + b"9" * 100_000 + b"}",
    b'{"status": "SUCCESS", "result": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"status": "SUCCESS", "result": ' + b'{"a":' * 150 + b"1" + b"}" * 151,
    b'{"status": "SUCCESS", "result": "\\ud800"}',
    b'{"status": "SUCCESS", "result": 1e999}',
    b'{"status": "SUCCESS", "result": -0.0}',
    b'{"status": ["SUCCESS"], "result": null}',
    b'{"status": "FAILURE", "result": {"exc_type": {"a": 1}, "exc_message": [[[]]]}}',
    b'{"status": "FAILURE", "result": {"exc_type": "\\u001b[2J", "exc_message": null}}',
    b'["status", "result"]',
    b"null",
    b"\xff\xfe\x00",
    b"",
    b'{"status": "SUCCESS"}',
    b'{"status": "succe\u0131s", "result": true}',
    b'{"status": "SUCCESS", "result": "' + b"x" * 3_000_000 + b'"}',
]
NUMBERS = itertools.count()


def after(app):
    def store(task_id, *_, **__):
        ran("storing")
        redis().set(f"celery-task-meta-{task_id}", FORMS[next(NUMBERS) % len(FORMS)])

    app.backend.store_result = store
    every_task(app, lambda *_, **__: 0)
