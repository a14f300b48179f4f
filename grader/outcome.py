"""What became of a workflow: how the checks of a data pipeline wait for it and judge it.

The sentences that these judgments speak in are the exercise's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grader.check import hint
from grader.history import Call
from grader.pipeline import Pipelines, Run, Source
from grader.services.http import ok

if TYPE_CHECKING:
    from grader.lab import Lab

STAGES = ("extract", "validate", "transform", "aggregate", "load")
LOOK = 10.0  # seconds: how long something that a worker does at once may take on a busy machine


def works_of(lab: Lab) -> Pipelines:
    """Return what the checks share in this lab; notifications are answered with 200."""

    def make() -> Pipelines:
        lab.http["notify"].script("outcome", then=ok())
        return Pipelines(lab)

    return lab.once("works", make)


def told(call: Call) -> str:
    """Return what became of a call, in Celery's own words."""
    reply = call.reply
    if reply is None:
        return "PENDING"
    why = f" {reply.error_type}: {reply.error_message}" if reply.error_type else ""
    return f"{reply.state}{why}"[:300]


def assert_succeeded(lab: Lab, run: Run) -> None:
    """The workflow was started and ended with a result."""
    assert lab.fact(bool(run.id) and not run.error, "started", seen=run.error), hint("started")
    said = {"run": run.call, "seen": told(run.call)}
    assert lab.fact(run.ending != "hangs", "hangs", **said), hint("hangs")
    assert lab.fact(run.ending == "final", "late", **said), hint("late")
    succeeded = bool(run.call.reply and run.call.reply.succeeded)
    assert lab.fact(succeeded, "succeeded", **said), hint("failed")


def assert_complete(lab: Lab, works: Pipelines, run: Run) -> None:
    """The target has every record of the run's sources, once."""
    seen, wanted = works.ids(run), works.wanted(run)
    missing, extra = wanted - seen, seen - wanted
    said = {"run": run.call, "wanted": wanted.total(), "seen": seen.total()}
    said |= {"missing": sorted(missing)[:3], "extra": sorted(map(str, extra))[:3]}
    assert lab.fact(not missing and not extra, "complete", **said), hint("incomplete")


def finished(lab: Lab, works: Pipelines, *runs: Run) -> None:
    """Wait for the runs; each ends well and is complete."""
    works.finish(runs)
    for run in runs:
        assert_succeeded(lab, run)
        assert_complete(lab, works, run)


def waiting(works: Pipelines, source: Source) -> bool:
    """Whether a request for a page of this API source waits for its answer right now."""
    return any(r.answered is None for r in works.api_service.requests(source["name"]))


def of_records(works: Pipelines, total: int) -> list[Source]:
    """Make two sources that have so many records together."""
    return [works.database(works.records(total - 1)), works.csv(works.records(1))]


def transformed(works: Pipelines, run: Run) -> bool:
    """Whether one of the run's sources has been transformed."""
    return any(step.succeeded for step in works.stage("transform_data", run.mark))


def failed(run: Run) -> bool:
    """Whether the workflow has ended in FAILURE."""
    return run.ending == "final" and bool(run.call.reply and run.call.reply.failed)


def dig(value: Any, *keys: str) -> dict[str, Any]:
    """Return what lies under the keys, {} where no object does."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
