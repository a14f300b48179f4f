"""Each look at the backend costs the grader as much as can be."""

from attack_kit import every_task, ran, redis


def after(app):
    def store(task_id, *_, **__):
        ran("storing")
        client = redis()
        key = f"celery-task-meta-{task_id}"
        client.set(key, b'{"status": "STARTED", "result": "')
        for _ in range(12):
            client.append(key, b"x" * 16_000_000)
        client.append(key, b'"}')

    app.backend.store_result = store
    every_task(app, lambda *_, **__: 0)
