"""grader/pipeline.py: when a data pipeline has nothing left to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from grader.pipeline import Pipelines

OURS = "ours"


class Worker:
    """Stands in for a lab: its worker does the next thing of a list each time it is waited for."""

    def __init__(self, *things: tuple[str, str]) -> None:
        self.left = list(things)
        self.data, self.http = None, {"sources": None, "notify": None}
        self.history = SimpleNamespace(events=[], events_of=self.events_of)
        self.worker = SimpleNamespace(started_at=0.0)
        self.publisher = SimpleNamespace(send=self.send)
        self.sent = 0

    def once(self, name, make):
        return make()

    def queue(self, task):
        return "celery"

    def send(self, *call):
        """Queue a message of the grader's behind what the worker has received so far."""
        self.sent += 1
        return SimpleNamespace(id=f"{OURS}-{self.sent}")

    def events_of(self, id):
        return [event for event in self.history.events if event["uuid"] == id]

    def until(self, ready, within):
        """Let the worker go on, one thing after the other, until the condition holds."""
        while not (held := ready()) and self.left:
            kind, id = self.left.pop(0)
            id = f"{OURS}-{self.sent}" if id == OURS else id
            self.history.events.append({"type": f"task-{kind}", "uuid": id, "timestamp": 2e9})
        return held


@pytest.fixture
def pipelines(monkeypatch, tmp_path):
    """Return what makes the pipelines of a worker that does these things."""

    def made(*things):
        lab = Worker(*things)
        lab.data = tmp_path
        return Pipelines(lab)

    return made


def test_an_idle_worker_is_settled_at_once(pipelines):
    """Where nothing was sent, one message of the grader's own is enough to know it."""
    works = pipelines(("failed", OURS))

    assert works.settle(1)
    assert works.lab.sent == 1


def test_what_a_task_sent_is_waited_for(pipelines):
    """The end of a task is no rest while the one that it sent is still on its way."""
    works = pipelines(
        ("received", "extract"),
        ("succeeded", "extract"),
        # Ours was sent behind the extraction, and before what that sent itself.
        ("failed", OURS),
        ("received", "validate"),
        ("succeeded", "validate"),
        ("failed", OURS),
        ("failed", OURS),
    )

    assert works.settle(1)
    assert works.lab.left == []
    assert [e["uuid"] for e in works.lab.history.events if e["type"] == "task-received"] == [
        "extract",
        "validate",
    ]


def test_work_without_an_end_is_not_settled(pipelines):
    """A task that never ends is still under way when the time is over."""
    works = pipelines(("received", "endless"), ("failed", OURS))

    assert not works.settle(0.05)


def test_who_polls_without_an_end_is_settled_by_a_moments_rest(pipelines, monkeypatch):
    """Where something new arrives all the time, a rest before and after our message has to do."""
    monkeypatch.setattr("grader.pipeline.STALL_SECONDS", 0.0)
    works = pipelines(("received", "poll"), ("succeeded", "poll"), ("failed", OURS))

    assert works.settle(1)
    assert works.lab.sent == 1
