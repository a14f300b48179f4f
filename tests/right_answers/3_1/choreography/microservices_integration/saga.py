"""All that is known of an order is one Redis hash; what is written first stands."""

import json
import time
import uuid

import redis

from .config import MEMORY

_client = None


def memory():
    global _client
    if _client is None:
        _client = redis.Redis.from_url(MEMORY, decode_responses=True)
    return _client


class Saga:
    def __init__(self, order_id):
        self.id = order_id
        self.token = str(uuid.uuid5(uuid.NAMESPACE_URL, "shop-order/" + order_id))
        self.name = "shop:" + self.token

    def once(self, field, value):
        """Write unless there is something; return what stands."""
        r = memory()
        r.hsetnx(self.name, field, json.dumps(value))
        r.expire(self.name, 86400)
        return self.get(field)

    def get(self, field):
        raw = memory().hget(self.name, field)
        return None if raw is None else json.loads(raw)

    @property
    def order(self):
        return self.get("order")

    def key(self, step):
        return f"{self.token}/{step}"

    def wait_for_end(self, task_id):
        memory().sadd(self.name + ":ids", task_id)
        memory().expire(self.name + ":ids", 86400)

    def waiting(self):
        return memory().smembers(self.name + ":ids")

    def note(self, step):
        memory().rpush(self.name + ":trace", json.dumps({"step": step, "at": time.time()}))
        memory().expire(self.name + ":trace", 86400)

    def trace(self):
        rows = [json.loads(x) for x in memory().lrange(self.name + ":trace", 0, -1)]
        return sorted(rows, key=lambda x: x["at"])
