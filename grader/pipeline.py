"""What the checks of a data pipeline work with: sources, the target, notifications, and runs.

    works = Pipelines(lab)
    run = works.start([works.database(), works.csv()])
    works.finish([run])
    assert works.ids(run) == works.wanted(run)

Everything is read from outside: rows from the target file, notifications from the service's own
log, order and overlap from the workers' events.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.errors import LabFault
from grader.history import Call
from grader.services.sources import Pages, Record, write_csv, write_database

if TYPE_CHECKING:
    from grader.lab import Lab

# How long nothing may be left to do before a workflow without an end is said to hang.
STALL_SECONDS = 3.0
TOLD_SECONDS = 30.0
# How long a submission has to wait for a page, an answer or the target: the handout says so.
PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 0.01
SETTLE_SECONDS = 20.0
TABLE = "run_id, source, id, value, cents"
ENDED = {"task-succeeded", "task-failed", "task-revoked"}
Source = dict[str, str]


@dataclass(eq=False)
class Run:
    """One workflow that was started. `ending` is "final", "hangs" or "late" after `finish`.

    Attributes:
        id: what run_pipeline returned, "" if it raised.
        error: what it raised.
        call: stands for the workflow's result.
        mark, notes: how many events and notifications there were before it.
    """

    sources: Sequence[Source]
    id: str
    error: str
    call: Call
    mark: int
    notes: int
    ending: str = ""

    @property
    def result(self) -> dict[str, Any]:
        """What the workflow returned, {} if it did not succeed with an object."""
        reply = self.call.reply
        found = reply.result if reply and reply.succeeded else None
        return found if isinstance(found, dict) else {}

    @property
    def names(self) -> set[str]:
        """The names of its sources."""
        return {source["name"] for source in self.sources}


@dataclass
class Step:
    """One task as the events tell of it; times are epoch seconds, by the worker's clock.

    A task that replaced itself has several names and keeps its id.
    """

    id: str
    names: list[str] = field(default_factory=list)
    parent: str | None = None
    received: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)

    @property
    def succeeded(self) -> float | None:
        """When it succeeded."""
        return self.ended.get("task-succeeded")


class Pipelines:
    """Makes sources, starts workflows on them and reads what came of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.target: Path = lab.data / "target.db"
        self.api_service, self.notify = lab.http["sources"], lab.http["notify"]
        self.records_of: dict[str, list[Record]] = lab.once("records", dict)

    # Sources

    def records(self, count: int = 12) -> list[Record]:
        """Draw records that every rule accepts: different ids, values of two decimals."""
        rng = self.lab.rng
        ids = rng.sample(range(10**6), count)
        return [(id, rng.randint(-99999, 99999) / 100) for id in ids]

    def name(self, records: list[Record]) -> str:
        """Draw a name for a source of these records; no other source of this lab has it."""
        while (name := "".join(self.lab.rng.choices(string.ascii_lowercase, k=7))) in (
            self.records_of
        ):
            pass
        self.records_of[name] = records
        return name

    def database(self, records: list[Record] | None = None) -> Source:
        """Make an SQLite source."""
        rows = self.records() if records is None else records
        path = self.lab.data / f"{(name := self.name(rows))}.db"
        write_database(path, rows)
        return {"name": name, "type": "database", "location": str(path)}

    def csv(self, records: list[Record] | None = None, mark: bool = False) -> Source:
        """Make a CSV source, with a byte order mark if asked for."""
        rows = self.records() if records is None else records
        path = self.lab.data / f"{(name := self.name(rows))}.csv"
        write_csv(path, rows, mark)
        return {"name": name, "type": "file", "location": str(path)}

    def api(self, records: list[Record] | None = None, **pages: Any) -> tuple[Source, Pages]:
        """Make an API source; returns it with the service's pages (see Pages for the options)."""
        rows = self.records() if records is None else records
        served, name = Pages(rows, **{"size": 5, **pages}), self.name(rows)
        self.api_service.rule(name, served)
        query = "&".join(f"{key}={value}" for key, value in served.query.items())
        location = self.api_service.address(name) + (f"?{query}" if query else "")
        return {"name": name, "type": "api", "location": location}, served

    def three(self) -> list[Source]:
        """Make one source of each kind."""
        return [self.database(), self.api()[0], self.csv()]

    # Runs

    def start(self, sources: Sequence[Source]) -> Run:
        """Call run_pipeline in a client process of the submission."""
        mark, notes = len(self.lab.history.events), len(self.notices())
        answer = self.lab.client.call("run_pipeline", list(sources))
        return self._run(sources, answer, mark, notes)

    def apply(self, sources: Sequence[Source]) -> Run:
        """Start what create_data_pipeline returned, as it is."""
        mark, notes = len(self.lab.history.events), len(self.notices())
        answer = self.lab.client.ask("apply", function="create_data_pipeline", args=[list(sources)])
        return self._run(sources, answer, mark, notes)

    def _run(self, sources: Sequence[Source], answer: Any, mark: int, notes: int) -> Run:
        id = answer.value if isinstance(answer.value, str) else ""
        error = answer.error or ("" if id else f"it returned {answer.value!r}")
        names = [source["name"] for source in sources]
        call = self.lab.adopt(id, "run_pipeline", names if len(names) < 4 else len(names))
        call.limit = TOLD_SECONDS
        return Run(sources, id, error, call, mark, notes)

    def finish(
        self,
        runs: Sequence[Run],
        within: float = TOLD_SECONDS,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until every run has an end; give up where nothing is left that could bring one.

        Args:
            runs: runs that could not be started have no end, and are passed over.
            within: seconds.
            enough: asked again and again; true ends the wait.
        """
        waiting = [run for run in runs if run.id]
        deadline, quiet_since = time.monotonic() + within, None
        while (waiting := self._unfinished(waiting)) and not enough():
            now = time.monotonic()
            quiet_since = (quiet_since or now) if self.quiet() else None
            hangs = quiet_since is not None and now - quiet_since > STALL_SECONDS
            if (hangs and self.settle(STALL_SECONDS)) or now > deadline:
                for run in self._unfinished(waiting):
                    run.ending = "hangs" if hangs else "late"
                return
            self.lab.until(self._dead, within=LOOK_SECONDS)

    def _unfinished(self, runs: Sequence[Run]) -> list[Run]:
        from redis.exceptions import TimeoutError as Busy

        try:
            open_calls = self.lab.publisher.fetch([run.call for run in runs])
        except Busy:  # megabytes of results on their way: look again
            return list(runs)
        for run in runs:
            if run.call not in open_calls:
                run.ending = "final"
        return [run for run in runs if run.call in open_calls]

    def _dead(self) -> bool:
        if not self.lab.worker.alive:
            raise self.lab.worker.death()
        return False

    def quiet(self) -> bool:
        """Whether every task that a worker received has ended."""
        last: dict[str, str] = {}
        for event in tuple(self.lab.history.events):
            kind, id = str(event.get("type")), event.get("uuid")
            # An end counts until the task is received again, given back to the queue.
            if kind == "task-received" or (
                kind.startswith("task-") and last.get(str(id)) not in ENDED
            ):
                last[str(id)] = kind
        return all(kind in ENDED for kind in last.values())

    def settle(self, within: float = SETTLE_SECONDS) -> bool:
        """Wait until nothing is left to do: no task runs, waits in the queue, or is to be retried.

        A message of our own is sent behind whatever is queued; once the worker's event tells of
        it, all that came before has been received.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            last = self.lab.publisher.send("lab.ready", self.lab.queue("lab.ready"), (), {}, within)
            heard = self.lab.until(lambda id=last.id: self.lab.history.events_of(id), within)
            if heard and self.quiet():
                return True
            self.lab.until(self.quiet, max(0.0, deadline - time.monotonic()))
        return False

    # What came of it

    def rows(self, names: set[str] | None = None) -> list[tuple[Any, ...]]:
        """Read the target's rows, those of some sources if named; [] if there is no table yet."""
        with contextlib.suppress(sqlite3.OperationalError), closing(self.open_target()) as db:
            found = db.execute(f"SELECT {TABLE} FROM loaded_records").fetchall()
            return [row for row in found if names is None or row[1] in names]
        return []

    def open_target(self) -> sqlite3.Connection:
        """Open the target; SQLite makes it if it is not there."""
        made = not self.target.exists()
        db = sqlite3.connect(self.target, timeout=20, isolation_level=None)
        if made:
            db.execute("PRAGMA user_version = 0")
            with contextlib.suppress(OSError):
                self.target.chmod(0o666)
        return db

    def ids(self, run: Run) -> Counter[tuple[str, str]]:
        """Count the (source, id) pairs that the target has of this run's sources."""
        return Counter((source, id) for _, source, id, *_ in self.rows(run.names))

    def wanted(self, run: Run) -> Counter[tuple[str, str]]:
        """Return what `ids` should be: every record once."""
        names = sorted(run.names)
        return Counter((name, str(id)) for name in names for id, _ in self.records_of[name])

    def notices(self, answered: int | None = None) -> list[dict[str, Any]]:
        """Return the bodies of the notifications so far, {} for one that is no JSON object.

        Args:
            answered: only those that were answered with this status.
        """
        chosen = self.notify.requests("outcome")
        if answered:
            chosen = [request for request in chosen if request.answered == answered]
        return [self._body(request.body) for request in chosen]

    def _body(self, text: str) -> dict[str, Any]:
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(text)
            return body if isinstance(body, dict) else {}
        return {}

    def steps(self, since: int = 0) -> dict[str, Step]:
        """Return the tasks that the events tell of, from the event number `since` on, by id."""
        steps: dict[str, Step] = {}
        for event in tuple(self.lab.history.events)[since:]:
            id, kind = event.get("uuid"), str(event.get("type"))
            if not isinstance(id, str):
                continue
            step = steps.setdefault(id, Step(id))
            at = float(event.get("timestamp") or 0.0)
            if kind == "task-received":
                step.received.append(at)
                step.names.append(str(event.get("name")).rpartition(".")[2])
                parent = event.get("parent_id")
                step.parent = step.parent or (parent if parent != id else None)
            elif kind == "task-started":
                step.starts.append(at)
            elif kind in ENDED:
                step.ended[kind] = at
        return steps

    def stage(self, name: str, since: int = 0) -> list[Step]:
        """Return the tasks of one name."""
        return [step for step in self.steps(since).values() if name in step.names]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to write into the target while the block runs."""
        with closing(self.open_target()) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                db.execute("ROLLBACK")


def assert_patience(*held: float) -> None:
    """Make sure that nothing was held back for longer than a submission must be patient.

    Args:
        held: seconds.

    Raises:
        LabFault: it was, on a very busy machine; what came of it proves nothing.
    """
    longest = max(held, default=0.0)
    if longest > PATIENCE_SECONDS:
        raise LabFault("held_too_long", limit=f"{PATIENCE_SECONDS:g}", seconds=f"{longest:.1f}")


def by_hand(works: Pipelines, sources: Sequence[Source], within: float = 10.0) -> list[Call]:
    """Feed the sources through extract, validate, transform and aggregate, one call a stage.

    Returns:
        The calls of the first stage that failed, or the aggregation's alone.
    """
    lab, fed = works.lab, list(sources)
    calls: list[Call] = []
    for stage in ("extract_data", "validate_data", "transform_data"):
        calls = lab.calls([(stage, one) for one in fed], within)
        if not all(call.reply and call.reply.succeeded for call in calls):
            return calls
        fed = [call.reply.result for call in calls if call.reply]
    return [lab.call("aggregate_results", fed, within=within)]


def ancestors(step: Step, steps: Mapping[str, Step]) -> list[Step]:
    """Return the tasks that led to this one, its parent first."""
    found: list[Step] = []
    while step.parent and (above := steps.get(step.parent)) and above not in found:
        found.append(step := above)
    return found


def matched(moments: Sequence[float], spans: Sequence[tuple[float, float]]) -> int:
    """Return how many moments can be given a span of their own that holds them."""
    free = sorted(spans, key=lambda span: span[1])
    for moment in sorted(moments):
        holding = next((span for span in free if span[0] <= moment <= span[1]), None)
        if holding:
            free.remove(holding)
    return len(spans) - len(free)


def spans(step: Step) -> list[tuple[float, float]]:
    """Return the time of each execution of a task: from when it was received to when it ended.

    Not from when it started: the worker's main process says that a little later.
    """
    last = max(step.ended.values(), default=float("inf"))
    return list(itertools.pairwise([*sorted(step.received), last]))
