"""Listens to the workers' events from before the first task until the end of the run."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from grader.blame import MOST_EVENTS, flooded
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
        """Return when the subscription stands.

        Raises:
            LabFault: it does not come.
            Exception: what the broker answered; whose fault that is, the lab decides.
        """
        wait_until(
            lambda: self._listening.is_set() or self.error,
            10,
            lambda: LabFault("no_events", error=self.error or "-"),
        )
        if self.error:
            raise self.error

    def _run(self) -> None:
        from kombu import Consumer

        try:
            with self._app.connection_for_read() as connection:
                receiver = self._app.events.Receiver(connection)
                with Consumer(
                    connection,
                    [receiver.queue],
                    on_message=lambda message: self._take(message, receiver),
                    on_decode_error=lambda *_: None,
                    accept=["json"],
                    no_ack=True,
                ):
                    self._drain(connection, 0.01)  # on Redis the first look is what subscribes
                    self._listening.set()
                    while not self._over.is_set():
                        self._drain(connection, 0.05)
                        if len(self.into) > MOST_EVENTS:
                            raise flooded()
        except Exception as error:
            self.error = error

    def _take(self, message: Any, receiver: Any) -> None:
        # A submission can send anything. An error here would keep what comes behind it unread, so
        # what is no event is passed over.
        with contextlib.suppress(Exception):
            body = message.decode()
            for one in body if isinstance(body, list) else [body]:
                with contextlib.suppress(Exception):
                    _, event = receiver.event_from_message(one)
                    if not nested(event):
                        self.into.append(event)

    def _drain(self, connection: Any, within: float) -> None:
        try:
            connection.drain_events(timeout=within)
        except TimeoutError:
            pass
        except Exception as error:
            if isinstance(error, (*connection.connection_errors, *connection.channel_errors)):
                raise
            self._over.wait(0.01)  # not even a message was sent there

    def close(self) -> None:
        """Stop listening."""
        self._over.set()
        self._thread.join(2)
        self._app.close()
