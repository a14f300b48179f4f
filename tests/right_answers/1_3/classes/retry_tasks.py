"""Tasks as classes that are registered one by one; hooks write the log line and the dead letter."""

import json
import math
import os
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests
from celery import Celery, Task
from celery.utils.log import get_task_logger

app = Celery("retry_tasks", backend="redis://127.0.0.1/1")
app.conf.task_acks_late = True
log = get_task_logger(__name__)


class NotYet(Exception):
    """It may work in a moment."""


class Asking(Task):
    abstract = True
    max_retries = 3
    final = staticmethod(lambda status: status < 500)

    def waits(self, done, header):
        raise NotImplementedError

    def ask(self, url):
        """Return the answer, or leave the task."""
        header = ""
        try:
            try:
                answer = requests.get(url, timeout=(3, 10))
            except requests.RequestException as error:
                raise NotYet(f"{url}: {type(error).__name__}") from None
            if not self.final(answer.status_code):
                header = answer.headers.get("Retry-After", "")
                raise NotYet(f"{url}: {answer.status_code} {answer.reason}")
        except NotYet as error:
            self.request.wait = self.waits(self.request.retries, header)
            raise self.retry(exc=error, countdown=self.request.wait) from None
        if answer.status_code >= 400:
            raise RuntimeError(f"{url}: {answer.status_code} {answer.reason}")
        return answer

    def ask_job(self, key):
        return self.ask(f"{os.environ['LAB_FLAKY_URL']}/jobs/{key}")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        attempt, wait = self.request.retries + 1, self.request.wait
        log.warning("%s", json.dumps({"attempt": attempt, "wait": wait, "error": str(exc)}))


class Unreliable(Asking):
    name = "retry_tasks.unreliable_task"

    def waits(self, done, header):
        return 2

    def run(self, key):
        return self.ask_job(key).json()["value"]


class Fetch(Asking):
    name = "retry_tasks.fetch_url"
    max_retries = 5
    final = staticmethod(lambda status: status < 500 and status != 429)

    def waits(self, done, header):
        return self.asked(header) + random.triangular(0, min(2**done, 8))

    def asked(self, header):
        try:
            return max(0, int(header))
        except ValueError:
            pass
        try:
            return max(0, parsedate_to_datetime(header).timestamp() - datetime.now(UTC).timestamp())
        except (ValueError, TypeError):
            return 0

    def run(self, url):
        answer = self.ask(url)
        length = len(answer.content)
        return {"status_code": answer.status_code, "content_length": length, "url": url}


class Doubling(Asking):
    name = "retry_tasks.exponential_backoff_task"
    max_retries = 5
    final = staticmethod(lambda status: status == 200)

    def waits(self, done, header):
        return math.ldexp(1, done)

    def run(self, data, key):
        good = isinstance(data, list) and all(
            isinstance(n, (int, float)) and math.isfinite(n) for n in data
        )
        if not good:
            raise ValueError(data)
        self.ask_job(key)
        return [n * 2 for n in data]


class Custom(Asking):
    name = "retry_tasks.custom_retry_task"
    final = staticmethod(Doubling.final)

    def waits(self, done, header):
        return (10, 20, 30, 40)[done]

    def run(self, task_data):
        return self.ask_job(task_data["key"]).json()

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        if isinstance(exc, NotYet):
            letter = {"task_id": task_id, "task": self.name, "error": str(exc)}
            letter["args"] = [*args, *kwargs.values()]
            letter["attempts"] = self.request.retries + 1
            letter["at"] = datetime.now(UTC).isoformat(timespec="seconds")
            self.backend.client.lpush("retry_tasks:dead_letter", json.dumps(letter))


for each in (Unreliable, Fetch, Doubling, Custom):
    app.register_task(each())
