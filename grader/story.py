"""The last run told in the order of time: what was sent, tried, planned, asked, broken, answered.

Built from a record (grader/record.py), which holds a submission's own words; who shows them makes
them harmless (`one_line`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grader.record import Record
from grader.words import NOTHING, Text

# The events of a worker that say something that nothing else does.
EVENTS = {
    "task-started": "story_started",
    "task-retried": "story_retried",
    "task-failed": "story_failed",
    "task-succeeded": "story_succeeded",
}


# A text among a call's arguments that is long enough to tell it from others.
KEY = re.compile(r"'([^'/]{6,})'")


@dataclass(frozen=True)
class Moment:
    """Something that happened: when (seconds since 1970), to which call (0 for none), and what."""

    at: float
    number: int
    kind: str  # sent, wait, event, request, fault, answer
    words: Text
    until: float | None = None  # of a wait: for when it was planned


@dataclass(frozen=True)
class Part:
    """One criterion on one broker: what it came to, and what happened in its time."""

    id: str
    broker: str
    lane: str
    verdict: str
    began: float
    ended: float
    calls: Sequence[Mapping[str, Any]] = ()
    messages: Sequence[Mapping[str, Any]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    requests: Sequence[Mapping[str, Any]] = ()
    faults: Sequence[Mapping[str, Any]] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it had its turn."""
        return max(0.0, self.ended - self.began)

    def number(self, id: object) -> int:
        """Return the number of a call, counted from 1; 0 for a task that no call of ours is."""
        ids = [call["id"] for call in self.calls]
        return ids.index(id) + 1 if id in ids else 0

    def broke(self, said: str) -> set[int]:
        """Return the numbers of the calls that a sentence about this criterion names."""
        return {n for n, call in enumerate(self.calls, 1) if call["words"] in said}

    def moments(self) -> list[Moment]:
        """Return what happened, in the order of time."""
        found = [*self._calls(), *self._messages(), *self._events(), *self._others()]
        return sorted(found, key=lambda moment: moment.at)

    def _calls(self) -> Iterator[Moment]:
        for number, call in enumerate(self.calls, 1):
            yield Moment(call["at"], number, "sent", Text.of("story_sent", call=call["words"]))
            if not call["state"]:
                yield Moment(self.ended, number, "answer", Text.of("story_silent"))
                continue
            done = call["done"] or call["at"]
            # A result that claims another day must not stretch the story to it.
            at = min(max(done, call["at"]), max(self.ended, call["at"]))
            said = Text.of("story_answer", state=call["state"], said=call["said"])
            yield Moment(at, number, "answer", said)

    def _messages(self) -> Iterator[Moment]:
        for message in self.messages:
            number, planned = self.number(message["id"]), message["planned"]
            wait = max(0.0, (planned or message["at"]) - message["at"])
            task = str(message["task"]).rpartition(".")[2]
            if message["retries"]:
                fields = {"number": message["retries"], "task": task, "wait": f"{wait:.1f}"}
                words = Text.of("story_retry", **fields)
            elif number:
                continue  # it is the call itself
            else:
                words = Text.of("story_published", task=task, queue=message["queue"])
            yield Moment(message["at"], number, "wait", words, message["at"] + min(wait, 3600))

    def _events(self) -> Iterator[Moment]:
        for event in self.events:
            if key := EVENTS.get(event["type"]):
                number = self.number(event["id"])
                yield Moment(event["at"], number, "event", Text.of(key, worker=event["worker"]))

    def _others(self) -> Iterator[Moment]:
        for request in self.requests:
            answered = request["answered"]
            fields = {"service": request["service"], "request": request["words"]}
            said = Text.of("story_asked", answer="-" if answered is None else answered, **fields)
            yield Moment(request["at"], 0, "request", said)
        for fault in self.faults:
            yield Moment(fault["at"], 0, "fault", Text.of("story_fault", kind=fault["kind"]))


def parts(record: Record) -> list[Part]:
    """Return every criterion that had its turn in a lab, in the order of time.

    One that was tried twice, because the lab failed, is told as it was the second time.
    """
    verdicts = {(e["id"], e["broker"]): e["verdict"] for e in record.entries("en")}
    found = {}
    for scene in record.scenes:
        for turn in scene["checks"]:
            key = (turn["id"], scene["broker"])
            if key in verdicts:
                found[key] = _part(scene, turn, verdicts[key])
    return sorted(found.values(), key=lambda part: part.began)


def _part(scene: Mapping[str, Any], turn: Mapping[str, Any], verdict: str) -> Part:
    began, ended = float(turn["began"]), float(turn["ended"])
    kinds = ("calls", "messages", "events", "requests", "faults")
    rows: dict[str, Any] = {
        kind: [r for r in scene[kind] if began <= r["at"] <= ended] for kind in kinds
    }
    place = (turn["id"], scene["broker"], turn["lane"])
    return Part(*place, verdict, began, ended, left_out=turn["left_out"], **rows)


def elsewhere(record: Record, part: Part, said: str) -> Part | None:
    """Return the part with the calls that `said` names, where they were made in another's time.

    A check may judge what was sent for one before it. None where the calls are the part's own, or
    are not known.
    """
    calls, others = [], []
    for scene in record.scenes:
        if scene["broker"] == part.broker and not part.broke(said):
            named = [call for call in scene["calls"] if call["words"] in said]
            calls += named
            others += [_about(scene, call) for call in named]
    if not calls:
        return None
    rows: dict[str, Any] = {kind: [r for o in others for r in o[kind]] for kind in others[0]}
    times = [row["at"] for mine in (calls, *rows.values()) for row in mine]
    times += [call["done"] for call in calls if call["done"]]
    return replace(part, calls=calls, began=min(times), ended=max(times), left_out={}, **rows)


def _about(scene: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what a scene has about one call: by its id, requests by the keys that it was given."""
    keys = KEY.findall(call["words"])
    return {
        "messages": [row for row in scene["messages"] if row["id"] == call["id"]],
        "events": [row for row in scene["events"] if row["id"] == call["id"]],
        "requests": [r for r in scene["requests"] if any(key in r["words"] for key in keys)],
    }


def remark(part: Part) -> Text:
    """Return what is to be said of a part that shows less than there was."""
    if left := sum(part.left_out.values()):
        return Text.of("story_left_out", count=left)
    if not part.moments():
        return Text.of("story_nothing")
    return NOTHING
