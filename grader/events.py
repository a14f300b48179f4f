"""Listens to the workers' events from before the first task until the end of the run."""

from __future__ import annotations

import threading
from typing import Any

from grader.errors import LabFault
from grader.history import nested
from grader.process import wait_until


class Listener:
    """Collects Celery events into `into`, a list of plain dicts, on a thread of its own.

    Args:
        broker_url: the grader's own URL of the broker.
        into: where the events go; only appended to.
    """

    def __init__(self, broker_url: str, into: list[dict[str, Any]]) -> None:
        from celery import Celery

        self.into = into
        self._app = Celery("lab", set_as_current=False)
        self._app.conf.update(broker_read_url=broker_url, broker_write_url=broker_url)
        self._listening, self._over = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ready(self) -> None:
        """Return when the subscription stands; LabFault if it can't be made."""
        wait_until(
            lambda: self._listening.is_set() or self.error,
            10,
            lambda: LabFault("no_events", error=self.error or "-"),
        )
        if self.error:
            raise LabFault("no_events", error=self.error)

    def _run(self) -> None:
        try:
            with self._app.connection_for_read() as connection:
                receiver = self._app.events.Receiver(connection, handlers={"*": self._take})
                # The receiver consumes on a connection of its own.
                with receiver.consumer_context() as (own, _channel, _consumers):
                    self._listening.set()
                    self._drain(own)
        except Exception as error:
            self.error = error

    def _take(self, event: dict[str, Any]) -> None:
        if not nested(event):  # a submission can send events of its own making
            self.into.append(event)

    def _drain(self, connection: Any) -> None:
        while not self._over.is_set():
            try:
                connection.drain_events(timeout=0.05)
            except TimeoutError:
                continue
            except connection.connection_errors:
                raise
            except Exception:  # what came is no event; the next one may be
                self._over.wait(0.01)

    def close(self) -> None:
        """Stop listening."""
        self._over.set()
        self._thread.join(2)
        self._app.close()
