"""The floor: a fresh embedded Redis, one prefork worker, thirty round trips, and the kill."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from celery import Celery

from grader.home import Home
from grader.process import spawn
from grader.stack.redis import RedisServer, connect, embedded_binary

APP = """
from celery import Celery
app = Celery("tiny")

@app.task
def add(x, y):
    return x + y
"""


def main() -> None:
    """Do it once."""
    with tempfile.TemporaryDirectory() as folder, Home() as home:
        Path(folder, "tiny.py").write_text(APP)
        binary = embedded_binary()
        assert binary, "the embedded Redis is not installed on this platform"
        server = RedisServer.start(home, binary)
        env = {"CELERY_BROKER_URL": server.url, "CELERY_RESULT_BACKEND": server.url}
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-c", "2"]
        command = [sys.executable, "-m", "celery", "-A", "tiny", "worker", *quiet]
        worker = spawn(command, env=env, cwd=Path(folder), ledger=home.ledger)
        app = Celery("floor", broker=server.url)
        pause = threading.Event()
        with connect(server.url) as client:
            for _ in range(30):
                key = f"celery-task-meta-{app.send_task('tiny.add', (1, 2)).id}"
                while not client.exists(key):
                    pause.wait(0.001)
        worker.end()
        server.stop()


if __name__ == "__main__":
    main()
