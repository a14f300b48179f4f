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
import json
import string
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grader.errors import LabFault
from grader.history import Call
from grader.services.sources import Pages, Record, write_csv, write_database
from grader.steps import Step, quiet, steps
from grader.target import Target

if TYPE_CHECKING:
    from grader.lab import Lab

# How long nothing may be left to do before a workflow without an end is said to hang.
STALL_SECONDS = 3.0
TOLD_SECONDS = 30.0
# How long a submission has to wait for a page, an answer or the target: the handout says so.
PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 0.01
SETTLE_SECONDS = 20.0
REFUSED = "refused-row"  # the id that the target refuses where a load is to fail
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
    def kinds(self) -> str:
        """Its sources, in words for the score card: "orders (database), prices (api)"."""
        return ", ".join(f"{source['name']} ({source['type']})" for source in self.sources)

    @property
    def names(self) -> set[str]:
        """The names of its sources."""
        return {source["name"] for source in self.sources}


class Pipelines(Target):
    """Makes sources, starts workflows on them and reads what came of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        super().__init__(lab.data / "target.db")
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
        life = time.monotonic() - self.lab.worker.started_at
        return quiet(tuple(self.lab.history.events), time.time() - life)

    def settle(self, within: float = SETTLE_SECONDS) -> bool:
        """Wait until nothing is left to do: no task runs, waits in the queue, or is to be retried.

        A message of our own is sent behind whatever is queued; once the worker's event tells of
        it, all that came before has been received. Between the end of a task and the arrival of
        the one that it sent, all is quiet as well: so it has to be before our message and after
        it, and nothing may have arrived in between. Who polls without an end is never still so
        long; there a moment's rest has to do after a while.
        """
        deadline, lenient = time.monotonic() + within, time.monotonic() + 2 * STALL_SECONDS
        while time.monotonic() < deadline:
            at_rest, received = self.quiet(), self._received()
            last = self.lab.publisher.send("lab.ready", self.lab.queue("lab.ready"), (), {}, within)
            heard = self.lab.until(lambda id=last.id: self.lab.history.events_of(id), within)
            still = self._received() == received or time.monotonic() > lenient
            if heard and at_rest and self.quiet() and still:
                return True
            self.lab.until(self.quiet, max(0.0, deadline - time.monotonic()))
        return False

    def _received(self) -> int:
        """Return how many tasks the workers told of when they came; ours, unknown, are none."""
        return sum(e.get("type") == "task-received" for e in tuple(self.lab.history.events))

    # What came of it

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
        return steps(tuple(self.lab.history.events)[since:])

    def stage(self, name: str, since: int = 0) -> list[Step]:
        """Return the tasks of one name."""
        return [step for step in self.steps(since).values() if name in step.names]


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
