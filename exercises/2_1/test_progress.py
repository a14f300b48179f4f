"""How far a workflow of exercise 2_1 is, as another process sees it."""

from __future__ import annotations

import itertools
import threading
import time
from uuid import UUID

from grader.check import check, hint, named
from grader.outcome import LOOK, failed, told, transformed, waiting, works_of
from grader.pipeline import assert_patience
from grader.services.http import fail, hold, ok

SOON = 4.0  # seconds: less than a submission must be patient for
DELIVERS = named("delivers_everything")  # in the other file


@check(after=DELIVERS)
def test_progress(lab):
    """workflow_progress goes from 0 to 100, is 100 only at the end, and tells a failure."""
    works, watcher = works_of(lab), lab.start_client()
    slow, pages = works.api(held=2)
    seen = []

    def look():
        seen.append(progress(lab, watcher, run.id))
        return seen[-1]

    with lab.frozen():
        run = works.start([slow, works.database()])
        assert lab.fact(run.id and not run.error, "started", seen=run.error), hint("started")
        look()
    lab.until(lambda: waiting(works, slow), LOOK)
    lab.until(lambda: transformed(works, run), SOON)
    lab.until(lambda: look()["percent"] > 0 or not waiting(works, slow), LOOK)
    moved = look()["percent"] > 0 and waiting(works, slow)
    free, notes, began = threading.Event(), len(works.notices()), time.monotonic()
    lab.http["notify"].script("outcome", then=hold(ok(), free.is_set))
    held = pages.release()
    noticed = lab.until(lambda: len(works.notices()) > notes, LOOK)
    look()  # everything is done but the notification
    free.set()
    # One that stands still until it gives up has itself to blame.
    if moved and noticed:
        assert_patience(held, time.monotonic() - began)
    lab.http["notify"].script("outcome", then=ok())
    lab.until(lambda: look()["state"] in ("SUCCESS", "FAILURE"), 30)
    works.finish([run])
    look()

    assert_progress(lab, seen, told(run.call))
    assert_progress_of_failures(lab, works, watcher)
    for unknown in ("no-such-workflow", str(UUID(int=lab.rng.getrandbits(128), version=4))):
        answer = watcher.call("workflow_progress", unknown)
        refused = answer.raised("ValueError")
        said = {"seen": answer.error or answer.value}
        assert lab.fact(refused, "progress_unknown", **said), hint("unknown")


def assert_progress_of_failures(lab, works, watcher):
    """Of a workflow that failed at its beginning, and of one that failed at its very end."""
    gone = works.database()
    (lab.data / f"{gone['name']}.db").unlink()
    early = works.start([gone, works.database()])
    works.finish([early])
    works.settle()  # its notification is answered
    lab.http["notify"].script("outcome", then=fail(503))
    late = works.start([works.database(), works.csv()])
    lab.until(lambda: works.notices()[late.notes :], LOOK)
    before = progress(lab, watcher, late.id)
    works.finish([late])
    works.settle()
    lab.http["notify"].script("outcome", then=ok())
    for run in (early, late):
        now = progress(lab, watcher, run.id)
        bad = now["state"] == "FAILURE" and now["failed"] >= 1 and now["percent"] < 100
        # Whether an outcome that nobody takes fails the workflow is judged elsewhere.
        bad = bad or (run is late and not failed(run))
        assert lab.fact(bad, "progress_failed", seen=now), hint("failed")
    said = {"seen": [before["percent"], now["percent"]]}
    assert lab.fact(before["percent"] <= now["percent"], "progress_falls", **said), hint("falls")


def progress(lab, watcher, id):
    """Ask another process how far a workflow is; its answer has the five keys."""
    before = lab.publisher.state(id)
    answer = watcher.call("workflow_progress", id)
    row = answer.value if isinstance(answer.value, dict) else {}
    numbers = [row.get(key) for key in ("total", "completed", "failed", "percent")]
    whole = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    shaped = isinstance(row.get("state"), str) and whole
    assert lab.fact(shaped, "progress_shape", seen=answer.error or answer.value), hint("shape")
    same = before != lab.publisher.state(id) or row["state"] == before
    assert lab.fact(same, "progress_state", wanted=before, seen=row["state"]), hint("state")
    return row


def assert_progress(lab, seen, result):
    """From 0 to 100, never back, the total the same, 100 only with SUCCESS."""
    totals = {row["total"] for row in seen}
    constant = len(totals) == 1 and min(totals) > 0
    assert lab.fact(constant, "progress_total", seen=sorted(totals)), hint("total")
    percents = [row["percent"] for row in seen]
    said = {"seen": percents[:1] + [p for a, p in itertools.pairwise(percents) if p != a]}
    assert lab.fact(percents == sorted(percents), "progress_falls", **said), hint("falls")
    assert lab.fact(percents[0] == 0, "progress_starts", **said), hint("starts")
    moved = any(0 < percent < 100 for percent in percents)
    assert lab.fact(moved, "progress_moves", **said), hint("moves")
    early = [row for row in seen if row["percent"] >= 100 and row["state"] != "SUCCESS"]
    assert lab.fact(not early, "progress_early", seen=early[:1]), hint("early")
    last = seen[-1]
    done = last["state"] == "SUCCESS" and last["percent"] == 100
    assert lab.fact(done, "progress_ends", seen=last, result=result), hint("ends")
