"""What exercise 2_1 does when pool children are killed, in every stage: one complete load."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from grader.check import check, hint, named
from grader.outcome import (
    LOOK,
    STAGES,
    assert_complete,
    dig,
    of_records,
    told,
    transformed,
    waiting,
    works_of,
)
from grader.pipeline import assert_patience
from grader.services.http import hold, ok

OWN_TOTAL = 17
# Where a child is made to stand still, and the task that it stands in.
STANDING = {
    "validate": "validate_data",
    "transform": "transform_data",
    "aggregate": "aggregate_results",
}
SOON = 2.0  # seconds: for what is as good as done, and need not be seen
DELIVERS = named("delivers_everything")  # in the other file


def killed(lab):
    """Kill pool children in each stage, and wait for the end of their workflows.

    Six workflows are brought to stand still, each in another stage and each on a child of its own.
    Then those children are killed, all at once because Celery may take five seconds to notice.

    Returns:
        The stage in which a workflow's child was killed -> the run, and -> whether a child was
        seen in that stage.
    """
    works = works_of(lab)

    def make():
        folder = lab.data / "stand"
        folder.mkdir()
        folder.chmod(0o777)
        # One child for each stage, the notification among them, and two for the other sources.
        worker = lab.restart_worker(concurrency=len(STAGES) + 3, extra={"LAB_STAND": str(folder)})
        worker.processes(1)  # a pool of threads has no child to kill
        runs, reached = {}, {}
        for name, stage in STANDING.items():
            runs[name], reached[name] = stopped_in(lab, works, folder, stage)
        # These three are held back by what a submission need not wait for longer than 5 seconds.
        source, pages = works.api(works.records(12), held=2)
        free = threading.Event()
        lab.http["notify"].script("outcome", then=hold(ok(), free.is_set))
        # No other workflow has so many records: its notification is known by their number.
        runs["notify"] = works.start(of_records(works, OWN_TOTAL))
        reached["notify"] = lab.until(lambda: works.notices()[runs["notify"].notes :], LOOK)
        if not works.lockable:
            runs["load"], reached["load"] = stopped_in(lab, works, folder, "load_data")
        began = time.monotonic()
        with contextlib.nullcontext() if "load" in runs else works.locked():
            if "load" not in runs:
                # The load has the target open and waits for the right to write.
                runs["load"] = works.start([works.database(), works.csv()])
            # Alone: a second source would have to be waited for while the page is held back.
            runs["extract"] = works.start([source])
            if "load" not in reached:
                reached["load"] = lab.until(lambda: holds(lab, works.target), LOOK)
            reached["extract"] = lab.until(lambda: waiting(works, source), LOOK)
            for name, stage in STANDING.items():
                reached[name] = reached[name] and at_work(works, stage, runs[name].mark)
            lab.kill_pool()
        if all(reached.values()):
            assert_patience(time.monotonic() - began)
        pages.release()
        # The dead child's POST is to be seen as such before the next one is answered.
        cut = works.notify.requests("outcome")[runs["notify"].notes :]
        lab.until(lambda: not cut or gone(works, runs["notify"].notes), LOOK)
        free.set()
        works.finish(list(runs.values()))
        works.settle()
        # An ordinary worker again: the lab is fit for other checks.
        lab.http["notify"].script("outcome", then=ok())
        lab.restart_worker()
        lab.dirty = False
        return runs, reached

    return lab.once("killed", make)


def gone(works, number):
    """Whether the client of this notification has left, or has got its answer."""
    return works.notify.requests("outcome")[number].answered is not None


def stopped_in(lab, works, folder, function):
    """Start a workflow whose child stands still at the beginning of this task; return whether."""
    path = folder / f"{lab.exercise.module}.{function}"
    path.touch()
    run = works.start([works.database(), works.csv()])

    def stands():
        # The event as well: it says that the worker knows who has the task.
        return not path.exists() and any(step.starts for step in works.stage(function, run.mark))

    reached = lab.until(stands, LOOK)
    # The other source's tasks are through: nobody is killed but in the stage that is meant.
    lab.until(lambda: transformed(works, run), SOON)
    return run, reached


def at_work(works, function, mark):
    """Whether one of these tasks has begun and not ended: the file alone anybody can take away."""
    return any(step.starts and not step.ended for step in works.stage(function, mark))


def holds(lab, path):
    """Whether a child of the worker's pool has this file open."""
    return any(same_file(path, opened) for child in lab.worker.pool for opened in open_files(child))


def same_file(path, opened):
    """Whether both are one file; a sandbox may know it by another path."""
    with contextlib.suppress(OSError):
        return path.samefile(opened)
    return False


def open_files(process):
    """Return where the open files of a process are found, none of one that is gone."""
    with contextlib.suppress(Exception):
        links = Path(f"/proc/{process.pid}/fd")
        if links.is_dir():
            return list(links.iterdir())
        return [file.path for file in process.open_files()]
    return []


def assert_survived(lab, works, stage):
    """Whatever was killed, the workflow ends in one complete load."""
    runs, reached = killed(lab)
    run = runs[stage]
    assert lab.fact(run.id and not run.error, "started", seen=run.error), hint("started")
    assert lab.fact(reached[stage], "not_reached", stage=stage, run=run.call)
    said = {"run": run.call, "killed": stage, "seen": told(run.call)}
    assert lab.fact(run.ending == "final", "killed_hangs", **said), hint("hangs")
    assert lab.fact(run.call.reply.succeeded, "killed_fails", **said), hint("failed")
    assert_complete(lab, works, run)


@check(after=DELIVERS)
def test_killed_in_a_source_stage(lab):
    """A child killed in extract, validate or transform costs nothing: one complete load."""
    works = works_of(lab)

    for stage in ("extract", "validate", "transform"):
        assert_survived(lab, works, stage)
    counts = counted(lab, works, killed(lab)[0]["extract"])
    fresh = counts.get("invalid_count", 0) == 0
    assert lab.fact(fresh, "killed_counts", seen=counts), hint("incomplete")


def counted(lab, works, run):
    """Return what the run's aggregation, if its result was kept, counts for the only source."""
    for step in works.stage("aggregate_results", run.mark):
        call = lab.adopt(step.id, "aggregate_results", "...")
        lab.publisher.fetch([call])
        if counts := dig(call.reply and call.reply.result, "sources", *run.names):
            return counts
    return {}


@check(after=DELIVERS)
def test_killed_in_join_or_load(lab):
    """A child killed in aggregate_results or in the middle of load_data: one complete load."""
    for stage in ("aggregate", "load"):
        assert_survived(lab, works_of(lab), stage)


@check(after=DELIVERS)
def test_killed_while_notifying(lab):
    """A child killed while its notification is under way: it is notified again, loaded once."""
    works, run = works_of(lab), killed(lab)[0]["notify"]

    assert_survived(lab, works, "notify")
    told_of = {notice.get("total_loaded") for notice in works.notices(answered=200)}
    answered = works.wanted(run).total() in told_of
    assert lab.fact(answered, "noticed_again")
