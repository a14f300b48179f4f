"""The app, the memory, and the base class of whatever calls a service."""

from __future__ import annotations

import json
import os

import redis
from celery import Celery, Task

from .services import ServiceCommunicator

app = Celery("shop", task_acks_late=True, task_reject_on_worker_lost=True)
app.conf.worker_prefetch_multiplier = 2
memory = redis.Redis.from_url(os.environ["LAB_REDIS_URL"], decode_responses=True)


def first(key, value):
    """Keep the first value that is given for a key and return the one that is kept."""
    memory.set(key, json.dumps(value), nx=True, ex=86400)
    return json.loads(memory.get(key))


class Call(Task):
    """Calls `service`; a subclass says where (`endpoint`) and what (`payload`)."""

    acks_late = True
    max_retries = None
    tries = 5
    first, growth = 0.3, 1.8
    service = ""

    def endpoint(self, order):
        raise NotImplementedError

    def payload(self, order, state):
        raise NotImplementedError

    def ask(self, order, state=None):
        response = ServiceCommunicator.call_service(
            self.service,
            self.endpoint(order),
            self.payload(order, state),
            key=f"{type(self).__name__}:{order['order_id']}",
        )
        if response.transient and self.request.retries + 1 < self.tries:
            raise self.retry(countdown=self.first * self.growth**self.request.retries)
        return response


def register(cls):
    cls.name = f"microservices_integration.{cls.name}"
    return app.register_task(cls())
