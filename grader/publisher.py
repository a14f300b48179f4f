"""Sends tasks by name, as any Celery client does, and reads the stored results as plain documents.

Results are read straight from the result backend's Redis and parsed as JSON. Celery's own client
would rebuild exceptions from names that the submission chose; the grader never does.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from grader.history import Call, Reply

if TYPE_CHECKING:
    from celery import Celery

POLL_SECONDS = 0.002
DEFAULT_KEY = "celery-task-meta-{}"


class Publisher:
    """The grader's client on one run's broker and result backend.

    Args:
        broker_url: the grader's own URL of the broker.
        backend_url: the grader's own URL of the result backend's Redis.
    """

    def __init__(self, broker_url: str, backend_url: str) -> None:
        from celery import Celery

        from grader.stack.redis import connect

        self.app: Celery = Celery("lab", set_as_current=False)
        # The environment's CELERY_BROKER_URL would win over a plain broker_url.
        self.app.conf.update(
            broker_read_url=broker_url,
            broker_write_url=broker_url,
            broker_connection_retry=False,
            result_backend="disabled://",
            task_serializer="json",
            task_create_missing_queues=True,
        )
        self.backend = connect(backend_url)
        self.result_key = DEFAULT_KEY

    def send(
        self, task: str, queue: str, args: Sequence[Any], kwargs: dict[str, Any], limit: float
    ) -> Call:
        """Publish one task message to `queue`, which must exist, and return the call."""
        from kombu import Exchange, Queue

        # Through the default exchange, so that the queue's own binding does not matter, and without
        # declaring it: its arguments are the submission's.
        to = Queue(queue, Exchange(""), routing_key=queue, no_declare=True)
        call = Call(str(uuid.uuid4()), task, tuple(args), kwargs, time.time(), limit)
        self.app.send_task(
            task, tuple(args), kwargs, task_id=call.id, queue=to, exchange="", routing_key=queue
        )
        return call

    def fetch(self, calls: Iterable[Call]) -> list[Call]:
        """Read the stored documents of the calls; return those that have no final one yet."""
        waiting = [call for call in calls if call.reply is None]
        if not waiting:
            return []
        # No template: a key prefix may have braces of its own.
        head, _, rest = self.result_key.rpartition("{}")
        stored = self.backend.mget([f"{head}{call.id}{rest}" for call in waiting])
        for call, raw in zip(waiting, stored, strict=True):
            reply = Reply.parse(cast(bytes, raw)) if raw else None
            if reply and reply.final:
                call.reply = reply
        return [call for call in waiting if call.reply is None]

    def wait(self, calls: Sequence[Call], within: float, give_up: Callable[[], bool]) -> bool:
        """Wait until every call has its final reply.

        Args:
            within: seconds to wait before `give_up` is asked.
            give_up: asked when the time is over; False grants `within` once more.

        Returns:
            Whether all of them were answered.
        """
        deadline = time.monotonic() + within
        while waiting := self.fetch(calls):
            if time.monotonic() > deadline:
                if give_up():
                    return False
                deadline = time.monotonic() + within
            threading.Event().wait(POLL_SECONDS)
        return not waiting

    def close(self) -> None:
        """Close the connections."""
        self.app.close()
        self.backend.close()
