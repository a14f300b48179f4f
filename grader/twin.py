"""A second home for a lab's submission: a fresh copy, servers, network and disk of its own.

What a submission keeps on disk and in Redis is its memory. A check that lets it live in another
time, or without its servers, must not leave traces in the memory that the other checks meet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grader.cell import Cell
from grader.exercise import Exercise
from grader.home import remove
from grader.place import Place
from grader.resources import Resources
from grader.stack.provider import Stack
from grader.submission import Submission


class Twin:
    """A place like the lab's own. Its broker is a private Redis, unless `extra` says otherwise.

    Args:
        like: the lab's place, for sandbox, ledger and module.
        name: of its folder; one of a kind in this lab.
        extra: variables for its environment beside the usual ones.

    Attributes:
        place: where its processes start.
        servers: every private Redis by name; "broker" is broker and result backend.
    """

    def __init__(
        self,
        exercise: Exercise,
        submission: Submission,
        stack: Stack,
        like: Place,
        name: str,
        extra: Mapping[str, str],
    ) -> None:
        self._closers = contextlib.ExitStack()
        try:
            stem = like.folder.parent / f"{like.folder.name}-{name}"
            folder = submission.copy(stem, exercise)
            self._closers.callback(remove, stem)
            resources = Resources(exercise.environment, stack, stem.with_suffix(".data"))
            self._closers.callback(resources.close)
            cell = Cell(like.cell.box, folder, like.ledger, resources.shared)
            self._closers.callback(cell.close)
            cell.show(resources.data)
            broker = stack.private_redis()
            self._closers.callback(broker.close)
        except BaseException:
            self.close()
            raise
        self.servers: dict[str, Any] = {**resources.redis, "broker": broker}
        urls = {
            "CELERY_BROKER_URL": broker.student_url,
            "CELERY_RESULT_BACKEND": broker.student_url,
        }
        environment = {**urls, **resources.environment, **extra}
        self.place = replace(like, cell=cell, folder=folder, environment=environment)

    def age(self, seconds: float) -> None:
        """Let time pass for what its servers keep: what would be forgotten by then is forgotten."""
        for server in self.servers.values():
            with server.client() as client:
                for key in client.scan_iter(count=1000):
                    if 0 <= client.pttl(key) <= seconds * 1000:
                        client.delete(key)

    def close(self) -> None:
        """Give everything back."""
        self._closers.close()
