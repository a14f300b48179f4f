"""The whole workflow of exercise 2_1: everything arrives once, in order, side by side, unmixed.

What was notified is read from the service's log, order and overlap from the workers' events.
"""

from __future__ import annotations

import itertools
from collections import Counter

from grader.check import check, hint, named
from grader.expect import foreign
from grader.outcome import (
    LOOK,
    STAGES,
    assert_complete,
    assert_succeeded,
    finished,
    told,
    transformed,
    waiting,
    works_of,
)
from grader.pipeline import assert_patience
from grader.steps import ancestors

READS = named("reads_every_source")  # in the other file


@check(after=READS)
def test_delivers_everything(lab):
    """A workflow of three sources loads every record once and notifies its outcome once."""
    works = works_of(lab)
    records = works.records()
    mixed = works.database([*records, ("", 1)])
    works.records_of[mixed["name"]] = records  # what there is to load of it

    run = works.start([mixed, *works.three()[1:]])
    finished(lab, works, run)
    works.settle()
    notices = works.notices()[run.notes :]

    keys = ("status", "total_loaded", "error")
    total = works.wanted(run).total()
    result = {key: run.result.get(key, "-") for key in keys}
    good = result["status"] == "completed" and result["total_loaded"] == total
    said = {"total": total, "seen": run.call.reply.result}
    assert lab.fact(good and result["error"] != "-", "outcome", **said), hint("outcome")
    assert lab.fact(len(notices) == 1, "noticed_once", seen=len(notices)), hint("notices")
    posted = {key: notices[0].get(key, "-") for key in keys}
    assert lab.fact(posted == result, "posted", wanted=result, seen=posted), hint("outcome")

    # The signature itself; what stands under the id of its result is left open.
    applied = works.apply(works.three())
    assert lab.fact(applied.id and not applied.error, "applied", seen=applied.error)
    works.finish([applied])
    works.settle()
    assert_complete(lab, works, applied)


@check(after=test_delivers_everything)
def test_one_and_fifty_sources(lab):
    """A workflow of one source and a workflow of fifty are complete as well."""
    works = works_of(lab)

    one = works.start([works.csv()])
    fifty = works.start([works.database(works.records(2)) for _ in range(50)])

    finished(lab, works, one)
    assert lab.fact(fifty.id and not fifty.error, "started", seen=fifty.error), hint("fifty")
    finished(lab, works, fifty)


@check(after=READS)
def test_refuses_sources(lab):
    """No sources, two of one name and an unknown type are a ValueError."""
    works = works_of(lab)
    one, other = works.database(), works.csv()
    for sources, what in (([], "none"), ([one, {**other, "name": one["name"]}], "two")):
        answer = lab.client.call("create_data_pipeline", sources)
        said = {"sources": sources, "seen": answer.error or "no error"}
        assert lab.fact(answer.raised("ValueError"), "refused", **said), hint(what)

    kind = "".join(lab.rng.choices("bcdfg", k=5))
    unknown = [{**one, "type": kind}, other]
    answer = lab.client.call("create_data_pipeline", unknown)
    seen, refused = answer.error, answer.raised("ValueError") and kind in answer.error
    if not refused:
        run = works.start(unknown)
        works.finish([run])
        works.settle()  # its other source may still be under way
        seen = run.error or told(run.call)
        refused = names_type(run, seen) and kind in seen
    assert lab.fact(refused, "unknown_type", type=kind, seen=seen), hint("type")


def names_type(run, seen):
    """Whether this is a ValueError, or something that quotes one.

    A ChordError quotes what was raised; a bare KeyError is no word on the type. Of a class of the
    submission's own the result does not say whether it is derived from ValueError.
    """
    reply = run.call.reply
    own = bool(reply and reply.failed) and foreign(reply.error_module)
    return own or "ValueError" in seen or ("ChordError" in seen and "KeyError" not in seen)


def outermost(name, steps):
    """Return the ids of the tasks of a name that no other of that name has led to.

    The pages of a source may be tasks of the same name: how further tasks are called is open.
    """
    return {
        step.id
        for step in steps.values()
        if name in step.names and not any(name in above.names for above in ancestors(step, steps))
    }


@check(after=test_delivers_everything)
def test_stages_in_order(lab):
    """Each source has its own extract, validate and transform, each led to by the one before."""
    works = works_of(lab)

    run = works.start(works.three())
    finished(lab, works, run)
    works.settle()

    steps = works.steps(run.mark)
    firsts = {stage: outermost(f"{stage}_data", steps) for stage in STAGES[:3]}
    for stage, found in firsts.items():
        assert lab.fact(len(found) == 3, "stage_count", stage=f"{stage}_data", seen=len(found))
    for before, after in itertools.pairwise(STAGES[:3]):
        causes = set()
        for step in works.stage(f"{after}_data", run.mark):
            led = [s.id for s in ancestors(step, steps) if s.id in firsts[before]]
            said = {"before": f"{before}_data", "after": f"{after}_data", "seen": len(led)}
            assert lab.fact(len(led) == 1, "led", **said)
            causes.update(led)
        said = {"before": f"{before}_data", "after": f"{after}_data", "seen": len(causes)}
        assert lab.fact(len(causes) == 3, "led_apart", **said)


@check(after=test_delivers_everything)
def test_sources_overlap(lab):
    """Where there are two slots, two sources are read at the same time."""
    works = works_of(lab)
    (one, first), (two, second) = works.api(held=1), works.api(held=1)

    run = works.start([one, two])
    both = lab.until(lambda: waiting(works, one) and waiting(works, two), LOOK)
    held = (first.release(), second.release())

    assert lab.fact(both, "overlap")
    assert_patience(*held)
    finished(lab, works, run)


def beside_a_slow_source(lab):
    """Run a slow source and a quick one; tell what happened until the slow one's page was let go.

    Returns:
        The run, whether the quick source was transformed, how many joins were received, and for
        how many seconds the page was held back.
    """
    works = works_of(lab)

    def make():
        slow, pages = works.api(held=2)
        run = works.start([slow, works.database()])
        lab.until(lambda: waiting(works, slow), LOOK)
        # Whoever gives the slow one up after a while, and then goes on, has held up the other.
        lab.until(lambda: transformed(works, run) or not waiting(works, slow), LOOK)
        quick = transformed(works, run) and waiting(works, slow)
        joins = heard_joins(lab, works, run)
        held = pages.release()
        works.finish([run])
        works.settle()
        return run, quick, joins, held

    return lab.once("slow", make)


def heard_joins(lab, works, run):
    """Count the joins that were received before a message of our own, sent last."""
    last = lab.publisher.send("lab.ready", lab.queue("lab.ready"), (), {}, LOOK)
    lab.until(lambda: lab.history.events_of(last.id), LOOK)
    return len(works.stage("aggregate_results", run.mark))


@check(after=test_delivers_everything)
def test_slow_source_holds_nobody(lab):
    """While one source is slow, another one is extracted, validated and transformed."""
    _, quick, _, _ = beside_a_slow_source(lab)

    assert lab.fact(quick, "slow")


@check(after=test_slow_source_holds_nobody)
def test_join_waits_for_all(lab):
    """The join runs once, after the last source."""
    works = works_of(lab)
    run, _, early, held = beside_a_slow_source(lab)

    assert lab.fact(not early, "join_early", seen=early)
    assert_patience(held)
    assert_succeeded(lab, run)
    assert_complete(lab, works, run)
    joins = works.stage("aggregate_results", run.mark)
    assert lab.fact(len(joins) == 1, "join_once", seen=len(joins))


@check(after=test_delivers_everything)
def test_one_slot_is_enough(lab):
    """With one slot and a time limit the workflow completes: no task waits for another."""
    works = works_of(lab)
    lab.restart_worker(concurrency=1, options=("--time-limit", "10"))

    run = works.start(works.three())
    works.finish([run])

    assert_succeeded(lab, run)
    assert_complete(lab, works, run)


@check(after=test_delivers_everything)
def test_runs_do_not_mix(lab):
    """Three workflows at once, two of them on the same sources, keep their rows apart."""
    works = works_of(lab)
    shared, others = [works.database(), works.api()[0]], [works.csv(), works.database()]

    runs = [works.start(sources) for sources in (shared, others, shared)]
    works.finish(runs)
    works.settle()

    for run in runs:
        assert_succeeded(lab, run)
    rows = works.rows(runs[0].names | runs[1].names)
    seen = {
        run_id: Counter((name, str(id)) for r, name, id, *_ in rows if r == run_id)
        for run_id in {row[0] for row in rows}
    }
    wanted = [works.wanted(run) for run in runs]
    said = {
        "wanted": sorted(w.total() for w in wanted),
        "seen": sorted(s.total() for s in seen.values()),
    }
    same = sorted(map(sorted, seen.values())) == sorted(map(sorted, wanted))
    assert lab.fact(same and said["wanted"] == said["seen"], "apart", **said)
    totals = sorted(str(run.result.get("total_loaded")) for run in runs)
    said = {"wanted": sorted(str(w.total()) for w in wanted), "seen": totals}
    assert lab.fact(totals == said["wanted"], "apart_told", **said)
    notices = works.notices()[runs[0].notes :]
    said["seen"] = sorted(str(notice.get("total_loaded")) for notice in notices)
    assert lab.fact(said["seen"] == said["wanted"], "apart_noticed", **said), hint("noticed")
