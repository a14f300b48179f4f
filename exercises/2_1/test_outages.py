"""What exercise 2_1 does when a source, the target or the receiver of notifications fails."""

from __future__ import annotations

import contextlib
import json
import threading

from grader.check import check, hint, named
from grader.outcome import (
    LOOK,
    STAGES,
    assert_succeeded,
    failed,
    of_records,
    told,
    works_of,
)
from grader.pipeline import REFUSED, assert_patience
from grader.services.http import answer, delay, fail, hold, ok, refuse
from grader.services.sources import write_corrupt_database

# No other workflows have so many records: their notifications are known by their number.
UNHEARD_TOTAL, SLOW_TOTAL, AGAIN_TOTAL = 19, 23, 29
SLOW_SECONDS = 4.0  # less than a submission must wait for an answer
DELIVERS = named("delivers_everything")  # in the other file


def failures(lab):
    """Start workflows that must fail, all at once, and wait for their end.

    Beside them run two good ones: of one the first notification is never answered, of the other
    the answer comes late.

    Returns:
        What is wrong -> (run, the names of the sources that fail), the notifications, and the two
        runs beside them.
    """
    works = works_of(lab)

    def make():
        works.settle()
        # A slot for each of the three that wait for a service, and two for the others.
        lab.restart_worker(concurrency=5)
        works.refuse(REFUSED)
        missing = works.database([])
        (lab.data / f"{missing['name']}.db").unlink()
        gone, other = lost_file(lab), lost_file(lab)
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
            "file": [other],
            "page": [broken],
            "corrupt": [corrupt],
            "two": [twice, gone],
            "load": [loads],
        }
        notes = len(works.notices())
        over = first_unheard(lab)
        beside = [works.start(of_records(works, n)) for n in (UNHEARD_TOTAL, SLOW_TOTAL)]
        runs = {
            what: (works.start([works.database(), *bad]), {source["name"] for source in bad})
            for what, bad in batches.items()
        }
        works.finish([run for run, _ in runs.values()])
        works.finish(beside)
        ended = sum(run.ending == "final" for run, _ in runs.values())
        lab.until(lambda: len(failures_told(works, notes)) >= ended, LOOK)
        if ended < len(runs) or any(run.ending != "final" for run in beside):
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
        return runs, notices, beside

    return lab.once("failures", make)


def lost_file(lab):
    """Make a CSV source whose file is missing."""
    source = works_of(lab).csv([])
    (lab.data / f"{source['name']}.csv").unlink()
    return source


def first_unheard(lab):
    """Leave the first notification of one run without an answer, until the event is set.

    Those of the other run beside the failing ones are answered late.
    """
    over, asked = threading.Event(), threading.Event()

    def choose(request):
        notice = parsed(request.body)
        if is_of(notice, SLOW_TOTAL):
            return delay(SLOW_SECONDS, ok())
        if not is_of(notice, UNHEARD_TOTAL) or asked.is_set():
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


def is_of(notice, *totals):
    """Whether this is a notification of a good run that has one of these numbers of records."""
    return notice.get("total_loaded") in totals and notice.get("status") != "failed"


def failures_told(works, since):
    """Return the notifications from the number `since` on, without those of the runs beside."""
    beside = UNHEARD_TOTAL, SLOW_TOTAL
    return [notice for notice in works.notices()[since:] if not is_of(notice, *beside)]


def assert_failed(lab, works, what, run):
    """The caller was told that the workflow has failed, and nothing was loaded."""
    said = {"what": what, "sources": run.kinds, "seen": run.error or told(run.call)}
    assert lab.fact(run.id and not run.error, "started", seen=run.error), hint("started")
    late = hint("silent" if what == "silent" else "late")
    assert lab.fact(run.ending == "final", "fails_late", **said), late
    assert lab.fact(run.call.reply.failed, "fails", **said), hint("succeeded")
    rows = works.rows(run.names)
    assert lab.fact(not rows, "nothing_loaded", seen=len(rows), what=what), hint("partial")


@check(after=DELIVERS)
def test_failing_source(lab):
    """A source that can't be read fails the workflow: nothing is loaded, the caller is told."""
    runs, _, _ = failures(lab)

    for what in ("missing", "file", "corrupt", "page", "silent"):
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
    mine, left = by_workflow(texts, nameless, ended)
    for what in sorted(ended):
        odd = what == "load" and not mine[what] and left
        assert lab.fact(not odd, "names_load", seen=left[:1]), hint("error")
        said = {"what": what, "seen": len(mine[what])}
        once = lab.fact(len(mine[what]) == 1, "failed_once", **said)
        assert once, hint(what if mine[what] else "never")
    said = {"what": "-", "seen": len(ended) + len(left)}
    assert lab.fact(not left or len(ended) < len(runs), "failed_once", **said)


def by_workflow(texts, nameless, ended):
    """Give each failed workflow the texts that name its sources, or else one that names nobody.

    Returns:
        What is wrong -> its texts, and the nameless texts that are left.
    """
    left = list(nameless)
    mine = {
        what: [t for t in texts if any(n in t for n in bad)] for what, (_, bad) in ended.items()
    }
    # The load first: whose stage a nameless text has to name is known of it alone.
    for what in sorted(mine, key=lambda what: what != "load"):
        fitting = [text for text in left if what != "load" or "load" in text]
        if not mine[what] and fitting:
            mine[what] = fitting[-1:]
            left.remove(fitting[-1])
    return mine, left


@check(after=DELIVERS)
def test_notification_is_tried_again(lab):
    """A notification that is not answered with 2xx is tried again, three times in all."""
    assert_heard_at_last(lab)
    assert_given_up(lab)

    _, _, (unheard, slow) = failures(lab)
    again = unheard.ending == "final" and unheard.call.reply.succeeded
    seen = unheard.error or told(unheard.call)
    assert lab.fact(again, "unheard", seen=seen), hint("silent")
    posts = works_of(lab).notify.requests("outcome")
    posts = [post for post in posts if is_of(parsed(post.body), SLOW_TOTAL)]
    assert_patience(*(post.ended - post.heard for post in posts if post.ended and post.heard))
    said = {"seen": len(posts), "state": slow.error or told(slow.call)}
    good = slow.ending == "final" and slow.call.reply.succeeded and len(posts) == 1
    assert lab.fact(good, "slow_answer", **said), hint("impatient")

    works = works_of(lab)
    applied = works.apply([works.csv()])
    works.finish([applied])
    works.settle()
    told_of = len(works.notices()) - applied.notes
    assert lab.fact(told_of == 1, "applied_noticed", seen=told_of), hint("alone")


def assert_heard_at_last(lab):
    """A good and a failing workflow, whose first notifications are refused, tell theirs again."""
    works = works_of(lab)
    lab.http["notify"].script("outcome", fail(404), then=answer(202))
    over = first_failure_refused(lab)
    run, bad = works.start(of_records(works, AGAIN_TOTAL)), works.start([lost_file(lab)])

    def failures_heard():
        return [n for n in works.notices()[run.notes :] if n.get("status") == "failed"]

    works.finish([run, bad])
    lab.until(lambda: not failed(bad) or len(failures_heard()) > 1, LOOK)
    works.settle()
    over.set()
    lab.dirty |= not (run.ending == bad.ending == "final")  # a retry may still wait
    tries = sum(is_of(notice, AGAIN_TOTAL) for notice in works.notices()[run.notes :])
    wrong = hint("once" if run.ending == "final" else "far_apart")
    assert lab.fact(tries != 1, "tries", wanted=2, seen=tries), wrong
    assert_succeeded(lab, run)
    assert lab.fact(tries == 2, "tries", wanted=2, seen=tries), hint("tries")
    # Whether a failure is told at all is judged elsewhere.
    seen = len(failures_heard())
    assert lab.fact(seen != 1, "failure_tried_again", seen=seen), hint("failure")


def first_failure_refused(lab):
    """Answer the first notification of a failed workflow with 503, until the event is set."""
    over, asked = threading.Event(), threading.Event()

    def choose(request):
        if over.is_set() or is_of(parsed(request.body), AGAIN_TOTAL):
            return None
        first = not asked.is_set()
        asked.set()
        return fail(503) if first else ok()

    lab.http["notify"].rule("outcome", choose)
    return over


def assert_given_up(lab):
    """After three tries nobody is asked any more, and the workflow has failed."""
    works = works_of(lab)
    lab.http["notify"].script("outcome", refuse(), then=fail(503))
    run = works.start([works.database(), works.csv()])
    works.finish([run])
    works.settle()
    lab.http["notify"].script("outcome", then=ok())
    lab.dirty |= run.ending != "final"
    tries = len(works.notices()) - run.notes
    wrong = hint("tries" if run.ending == "final" else "far_apart")
    assert lab.fact(tries == 3, "tries", wanted=3, seen=tries), wrong
    said = {"what": "notify", "sources": run.kinds, "seen": told(run.call)}
    assert lab.fact(failed(run), "fails", **said), hint("swallowed")
