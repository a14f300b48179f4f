"""The three tasks that ask for jobs."""

import json
import math
import os
import urllib.parse
from datetime import datetime
from zoneinfo import ZoneInfo

from retry_tasks.web import Asking, Trouble, get


def job(key):
    return get(os.environ["LAB_FLAKY_URL"] + "/jobs/" + urllib.parse.quote(key))


def need_200(key):
    status, _, body = job(key)
    if status != 200:
        raise Trouble(f"status {status}")
    return body


class Unreliable(Asking):
    name = "retry_tasks.unreliable_task"
    max_retries = 3

    def run(self, key):
        return super().run(key)

    def pause(self, number):
        return 2

    def work(self, key):
        status, _, body = job(key)
        if status >= 500:
            raise Trouble(f"status {status}")
        if status >= 400:
            raise LookupError(f"status {status}")
        return json.loads(body)["value"]


class Exponential(Asking):
    name = "retry_tasks.exponential_backoff_task"
    max_retries = 5

    def run(self, data, key):
        return super().run(data, key)

    def pause(self, number):
        return 2 ** (number - 1)

    def work(self, data, key):
        if not isinstance(data, list) or not all(isinstance(x, (int, float)) for x in data):
            raise ValueError(data)
        if not all(map(math.isfinite, data)):
            raise ValueError("not finite")
        need_200(key)
        return [x + x for x in data]


class CustomRetry(Asking):
    name = "retry_tasks.custom_retry_task"
    max_retries = 3

    def run(self, task_data):
        return super().run(task_data)

    def pause(self, number):
        return number * 10

    def work(self, task_data):
        return json.loads(need_200(task_data["key"]))

    def over(self, trouble, task_data):
        self.backend.client.rpush(
            "retry_tasks:dead_letter",
            json.dumps(
                {
                    "at": datetime.now(ZoneInfo("Asia/Shanghai")).isoformat(timespec="seconds"),
                    "task_id": self.request.id,
                    "task": self.name,
                    "args": [task_data],
                    "error": str(trouble),
                    "attempts": 4,
                }
            ),
        )
