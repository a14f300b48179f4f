"""What exercise 2_1 does when a source, the target or the receiver of notifications fails."""

from __future__ import annotations

import contextlib
import json
import threading

from grader.check import check, hint, named
from grader.outcome import LOOK, STAGES, assert_succeeded, failed, of_records, told, works_of
from grader.pipeline import REFUSED
from grader.services.http import answer, fail, hold, ok, refuse
from grader.services.sources import write_corrupt_database

# No other workflow has so many records: its notifications are known by their number.
UNHEARD_TOTAL = 19
DELIVERS = named("delivers_everything")  # in the other file


def failures(lab):
    """Start workflows that must fail, all at once, and wait for their end.

    Beside them runs a good one whose first notification is never answered.

    Returns:
        What is wrong -> (run, the names of the sources that fail), the notifications, and the run
        beside them.
    """
    works = works_of(lab)

    def make():
        works.settle()
        # A slot for each of the two that wait for a silent service, and two for the others.
        lab.restart_worker(concurrency=4)
        works.refuse(REFUSED)
        missing, gone = works.database([]), works.csv([])
        (lab.data / f"{missing['name']}.db").unlink()
        (lab.data / f"{gone['name']}.csv").unlink()
        corrupt = works.database([])
        write_corrupt_database(lab.data / f"{corrupt['name']}.db")
        twice = works.database([])
        write_corrupt_database(lab.data / f"{twice['name']}.db")
        silent, pages = works.api(held=1)
        broken, _ = works.api(works.records(12), broken=3)
        rows = works.records(2500)
        rows.insert(2400, (REFUSED, 1))  # behind what a load in pieces commits first
        loads = works.database(rows)
        batches = {
            "silent": [silent],
            "missing": [missing],
            "page": [broken],
            "corrupt": [corrupt],
            "two": [twice, gone],
            "load": [loads],
        }
        notes = len(works.notices())
        over = first_unheard(lab)
        unheard = works.start(of_records(works, UNHEARD_TOTAL))
        runs = {
            what: (works.start([works.database(), *bad]), {source["name"] for source in bad})
            for what, bad in batches.items()
        }
        works.finish([run for run, _ in runs.values()])
        works.finish([unheard], within=15)  # seconds more
        ended = sum(run.ending == "final" for run, _ in runs.values())
        lab.until(lambda: len(failures_told(works, notes)) >= ended, LOOK)
        if ended < len(runs) or unheard.ending != "final":
            # Whoever still waits would wait for ever.
            over.set()
            pages.release()
        works.settle()
        notices = failures_told(works, notes)
        over.set()
        pages.release()
        # An ordinary worker again: the lab is fit for other checks.
        lab.restart_worker()
        lab.dirty = False
        return runs, notices, unheard

    return lab.once("failures", make)


def first_unheard(lab):
    """Leave the first notification of one run without an answer, until the event is set."""
    over, asked = threading.Event(), threading.Event()

    def choose(request):
        if not is_unheard(parsed(request.body)) or asked.is_set():
            return None
        asked.set()
        return hold(ok(), over.is_set)

    lab.http["notify"].rule("outcome", choose)
    return over


def parsed(text):
    """Return a notification's body, {} if it is no JSON object."""
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
        return body if isinstance(body, dict) else {}
    return {}


def is_unheard(notice):
    """Whether this is a notification of the run beside those that fail."""
    return notice.get("total_loaded") == UNHEARD_TOTAL and notice.get("status") != "failed"


def failures_told(works, since):
    """Return the notifications from the number `since` on, without those of the run beside."""
    return [notice for notice in works.notices()[since:] if not is_unheard(notice)]


def assert_failed(lab, works, what, run):
    """The caller was told that the workflow has failed, and nothing was loaded."""
    said = {"what": what, "sources": run.kinds, "seen": run.error or told(run.call)}
    assert lab.fact(run.id and not run.error, "started", seen=run.error), hint("started")
    assert lab.fact(run.ending == "final", "fails_late", **said), hint("late")
    assert lab.fact(run.call.reply.failed, "fails", **said), hint("succeeded")
    rows = works.rows(run.names)
    assert lab.fact(not rows, "nothing_loaded", seen=len(rows), what=what), hint("partial")


@check(after=DELIVERS)
def test_failing_source(lab):
    """A source that can't be read fails the workflow: nothing is loaded, the caller is told."""
    runs, _, _ = failures(lab)

    for what in ("missing", "corrupt", "page", "silent"):
        assert_failed(lab, works_of(lab), what, runs[what][0])


@check(after=DELIVERS)
def test_failing_load(lab):
    """A row that the target refuses fails the workflow, and no other row of the run is loaded."""
    runs, _, _ = failures(lab)

    assert_failed(lab, works_of(lab), "load", runs["load"][0])


@check(after=DELIVERS)
def test_failure_notified_once(lab):
    """Each failed workflow is notified once, however many of its sources fail."""
    runs, notices, _ = failures(lab)

    ended = {what: pair for what, pair in runs.items() if failed(pair[0])}
    assert lab.fact(ended, "none_ended")
    texts = [str(notice.get("error")) for notice in notices if notice.get("status") == "failed"]
    good = [n for n in notices if n.get("status") != "failed"]
    others = len(runs) - len(ended)  # what they have told is judged elsewhere
    assert lab.fact(len(good) <= others, "not_failed", seen=good[-1:]), hint("status")
    nameless = [
        text for text in texts if not any(name in text for _, bad in runs.values() for name in bad)
    ]
    silent = [text for text in nameless if not any(stage in text for stage in STAGES)]
    assert lab.fact(not silent, "names_culprit", seen=silent[:1]), hint("error")
    for what, (_, bad) in sorted(ended.items()):
        mine = [text for text in texts if any(name in text for name in bad)]
        if not mine and nameless:
            mine = [nameless.pop()]
        said = {"what": what, "seen": len(mine)}
        assert lab.fact(len(mine) == 1, "failed_once", **said), hint("never" if not mine else what)
    said = {"what": "-", "seen": len(ended) + len(nameless)}
    assert lab.fact(not nameless or len(ended) < len(runs), "failed_once", **said)


@check(after=DELIVERS)
def test_notification_is_tried_again(lab):
    """A notification that is not answered with 2xx is tried again, three times in all."""
    works = works_of(lab)

    lab.http["notify"].script("outcome", fail(404), then=answer(202))
    run = works.start([works.database(), works.csv()])
    works.finish([run])
    works.settle()
    tries = len(works.notices()) - run.notes
    assert_succeeded(lab, run)
    assert lab.fact(tries == 2, "tries", wanted=2, seen=tries), hint("tries")

    lab.http["notify"].script("outcome", refuse(), then=fail(503))
    run = works.start([works.database(), works.csv()])
    works.finish([run])
    works.settle()
    lab.http["notify"].script("outcome", then=ok())
    tries = len(works.notices()) - run.notes
    assert lab.fact(tries == 3, "tries", wanted=3, seen=tries), hint("tries")
    said = {"what": "notify", "sources": run.kinds, "seen": told(run.call)}
    assert lab.fact(failed(run), "fails", **said), hint("swallowed")

    _, _, unheard = failures(lab)
    again = unheard.ending == "final" and unheard.call.reply.succeeded
    seen = unheard.error or told(unheard.call)
    assert lab.fact(again, "unheard", seen=seen), hint("late")
