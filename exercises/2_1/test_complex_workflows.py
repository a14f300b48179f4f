"""The core checks of exercise 2_1: sources in, one complete load and one notification out.

Sources are real and drawn from `lab.rng`. What reached the target is read from its file, what was
notified from the service's log, order and overlap from the workers' events.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections import Counter
from pathlib import Path

from grader.check import check, hint
from grader.pipeline import Pipelines, assert_patience, by_hand
from grader.services.http import fail, hold, ok, refuse
from grader.services.sources import write_corrupt_database
from grader.steps import ancestors

STAGES = ("extract", "validate", "transform", "aggregate", "load")
LOOK = 10.0  # seconds: how long something that a worker does at once may take on a busy machine
REFUSED = "refused-row"
OWN_TOTAL = 17


def works_of(lab):
    """Return what the checks share in this lab; notifications are answered with 200."""

    def make():
        lab.http["notify"].script("outcome", then=ok())
        return Pipelines(lab)

    return lab.once("works", make)


def told(call):
    """Return what became of a call, in Celery's own words."""
    reply = call.reply
    if reply is None:
        return "PENDING"
    return f"{reply.state} {reply.error_type}: {reply.error_message}"[:300]


def assert_stages(lab, calls):
    """Every one of these stages, called by hand, has succeeded."""
    missing = lab.unregistered([f"{stage}_data" for stage in ("extract", "validate", "transform")])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    for call in calls:
        done = bool(call.reply and call.reply.succeeded)
        assert lab.fact(done, "stage", call=call, seen=told(call)), hint("stage")


def loaded_by_hand(lab, works, sources):
    """Feed the sources through the five stages; return the aggregation and the target's rows."""
    calls = by_hand(works, sources)
    assert_stages(lab, calls)
    aggregation = calls[-1].reply.result
    assert_stages(lab, [lab.call("load_data", aggregation, within=10)])
    return aggregation, works.rows({source["name"] for source in sources})


def assert_succeeded(lab, run):
    """The workflow was started and ended with a result."""
    assert lab.fact(run.id and not run.error, "started", seen=run.error), hint("started")
    said = {"run": run.call, "seen": told(run.call)}
    assert lab.fact(run.ending != "hangs", "hangs", **said), hint("hangs")
    assert lab.fact(run.ending == "final", "late", **said), hint("late")
    assert lab.fact(run.call.reply.succeeded, "succeeded", **said), hint("failed")


def assert_complete(lab, works, run):
    """The target has every record of the run's sources, once."""
    seen, wanted = works.ids(run), works.wanted(run)
    missing, extra = wanted - seen, seen - wanted
    said = {"run": run.call, "wanted": wanted.total(), "seen": seen.total()}
    said |= {"missing": sorted(missing)[:3], "extra": sorted(map(str, extra))[:3]}
    assert lab.fact(not missing and not extra, "complete", **said), hint("incomplete")


def finished(lab, works, *runs):
    """Wait for the runs; each ends well and is complete."""
    works.finish(runs)
    for run in runs:
        assert_succeeded(lab, run)
        assert_complete(lab, works, run)


# ------------------------------------------------------------------------------- stages by hand


@check
def test_reads_every_source(lab):
    """The stages bring every record of a database, a paging API and a CSV file into the target."""
    works = works_of(lab)
    sources = [
        works.database(),
        works.csv(),
        works.csv(mark=True),
        works.api(works.records(23), query={"team": "7", "full": "yes"})[0],
        works.api(works.records(10))[0],  # its last page is full
        works.api(works.records(1))[0],
    ]

    _, rows = loaded_by_hand(lab, works, sources)

    for source in sources:
        seen = Counter(str(id) for _, name, id, *_ in rows if name == source["name"])
        wanted = Counter(str(id) for id, _ in works.records_of[source["name"]])
        said = {"source": source, "wanted": wanted.total(), "seen": seen.total()}
        said |= {"missing": sorted(wanted - seen)[:3], "extra": sorted(seen - wanted)[:3]}
        assert lab.fact(seen == wanted, "source_rows", **said), hint(source["type"])


@check(after=test_reads_every_source)
def test_drops_invalid_records(lab):
    """Records without an id or without a finite number, and ids that come again, are dropped."""
    works, n = works_of(lab), lab.rng.randint(100, 999)
    # (id, value) and what is loaded of it: the value, None if the record is invalid.
    any_kind = [
        ((f" {n} ", "3.5"), 3.5),
        ((f"{n}", 9), None),
        ((f"0{n}", 7), 7.0),
        ((n + 1, "abc"), None),
        ((n + 1, 4), 4.0),
        ((n + 1, 5), None),
        ((n + 2, ""), None),
        ((n + 3, "1e3"), 1000.0),
        (("", 1), None),
        (("   ", 1), None),
        ((n + 4, -0.25), -0.25),
    ]
    in_database = [((None, 1), None), ((n + 5, None), None), ((n + 6, 9e999), None)]
    in_csv = [((n + 5, "nan"), None), ((n + 6, "-inf"), None), ((n + 7, "0"), 0.0)]
    in_api = [((None, 1), None), ((..., 2), None), ((n + 5, ...), None), ((n + 6, None), None)]
    in_api += [((n + 7, True), None), ((n + 8, False), None), ((n + 9, [1]), None)]
    in_api += [((n + 7, 0), 0.0)]
    tables = [any_kind + in_database, any_kind + in_csv, any_kind + in_api]
    records = [[record for record, _ in table] for table in tables]
    sources = [works.database(records[0]), works.csv(records[1]), works.api(records[2])[0]]

    aggregation, rows = loaded_by_hand(lab, works, sources)

    for source, table in zip(sources, tables, strict=True):
        mine = {str(id): value for _, name, id, value, _ in rows if name == source["name"]}
        for (id, value), wanted in table:
            assert_record(lab, source, id, value, wanted, mine, table)
        invalid = sum(wanted is None for _, wanted in table)
        counts = dig(aggregation, "sources", source["name"])
        want = {"count": len(table) - invalid, "invalid_count": invalid}
        seen = {key: counts.get(key) for key in want}
        assert lab.fact(seen == want, "counts", name=source["name"], wanted=want, seen=seen)


def assert_record(lab, source, id, value, wanted, mine, table):
    """One record is in the target with its value, or is not there, as its table says."""
    key = "" if id in (None, ...) else str(id).strip()
    taken = [want for (other, _), want in table if str(other).strip() == key and want is not None]
    said = {"record": {"id": id, "value": value}, "source": source}
    if wanted is None:
        gone = key not in mine if not taken else mine.get(key) == taken[0]
        named = hint("twice" if taken else "accepted")
        assert lab.fact(gone, "invalid", seen=mine.get(key), **said), named
    else:
        found = mine.get(key)
        assert lab.fact(found == wanted, "valid", wanted=wanted, seen=found, **said), hint("lost")


def dig(value, *keys):
    """Return what lies under the keys, {} where no object does."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


@check(after=test_reads_every_source)
def test_gives_final_form(lab):
    """A loaded record has its id as text, its value, and exact cents, rounded half-even."""
    works, whole = works_of(lab), lab.rng.randint(1, 9)
    forms = [
        (f"{whole}.005", 0),
        (f"{whole}.015", 2),
        ("0.125", 12),
        ("-0.125", -12),
        ("2.675", 268),
    ]
    forms += [("0.375", 38), ("1.115", 112), ("12345678.9", 1234567890), ("-3", -300), ("1e-3", 0)]
    wanted = {}
    for place, (text, cents) in enumerate(forms):
        exact = cents if place > 1 else whole * 100 + cents
        wanted[f"0{place}"] = (float(text), exact)
    records = [(id, value) for id, (value, _) in wanted.items()]
    as_text = [(id, text) for id, (text, _) in zip(wanted, forms, strict=True)]
    sources = [works.database(records), works.csv(as_text)]

    _, rows = loaded_by_hand(lab, works, sources)

    assert lab.fact(rows, "form_missing", wanted=len(wanted) * 2)
    texts = {id for *_, id, _, _ in rows if isinstance(id, str)}
    odd = [id for *_, id, _, _ in rows if not isinstance(id, str) or id not in wanted]
    assert lab.fact(not odd, "form_id", wanted=sorted(wanted)[:3], seen=odd[:3]), hint("id_type")
    for _, _, id, value, cents in rows:
        want = wanted[id]
        said = {"id": id, "wanted": want, "seen": (value, cents)}
        assert lab.fact((value, cents) == want, "form", **said), hint("cents")
    assert lab.fact(texts == set(wanted), "form_missing", wanted=len(wanted) * 2)


@check(after=test_reads_every_source)
def test_aggregates(lab):
    """aggregate_results counts records and sources and sums the sources up."""
    works = works_of(lab)
    sizes = [3, 4, lab.rng.choice((9, 12, 15))]  # their average is no whole number
    lab.rng.shuffle(sizes)
    sources = [works.database(works.records(size)) for size in sizes]

    calls = by_hand(works, sources)

    assert_stages(lab, calls)
    seen = calls[0].reply.result
    seen = seen if isinstance(seen, dict) else {}
    pairs = [
        ("total_records", sum(sizes), seen.get("total_records")),
        ("source_count", 3, seen.get("source_count")),
        ("summary.max", max(sizes), dig(seen, "summary").get("max")),
        ("summary.min", min(sizes), dig(seen, "summary").get("min")),
    ]
    for source, size in zip(sources, sizes, strict=True):
        counts = dig(seen, "sources", source["name"])
        pairs.append((f"sources.{source['name']}.count", size, counts.get("count")))
        pairs.append((f"sources.{source['name']}.invalid_count", 0, counts.get("invalid_count")))
    for key, want, found in pairs:
        assert lab.fact(found == want, "summary", place=key, wanted=want, seen=found)
    average = dig(seen, "summary").get("average")
    close = isinstance(average, int | float) and math.isclose(average, sum(sizes) / 3, rel_tol=1e-3)
    said = {"place": "summary.average", "wanted": sum(sizes) / 3, "seen": average}
    assert lab.fact(close, "summary", **said), hint("average")


@check(after=test_reads_every_source)
def test_load_is_repeatable(lab):
    """The same aggregation loaded again adds nothing; another run of the sources adds its rows."""
    works = works_of(lab)
    sources = [works.database(), works.csv()]
    names = {source["name"] for source in sources}

    aggregation, once = loaded_by_hand(lab, works, sources)
    lab.call("load_data", aggregation, within=10)
    again = works.rows(names)
    _, other = loaded_by_hand(lab, works, sources)

    said = {"first": len(once), "seen": len(again)}
    assert lab.fact(len(again) == len(once), "again", **said), hint("twice")
    said = {"wanted": 2 * len(once), "seen": len(other)}
    assert lab.fact(len(other) == 2 * len(once), "other_run", **said), hint("other_run")
    runs = Counter(str(row[0]) for row in other)
    said = {"wanted": [len(once)] * 2, "seen": sorted(runs.values())}
    assert lab.fact(sorted(runs.values()) == [len(once)] * 2, "run_ids", **said), hint("run_ids")


# ------------------------------------------------------------------------------- the whole workflow


@check(after=test_reads_every_source)
def test_delivers_everything(lab):
    """A workflow of three sources loads every record once and notifies its outcome once."""
    works = works_of(lab)

    run = works.start(works.three())
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

    finished(lab, works, one, fifty)


@check(after=test_reads_every_source)
def test_refuses_sources(lab):
    """No sources, two of one name and an unknown type are a ValueError."""
    works = works_of(lab)
    one, other = works.database(), works.csv()
    for sources, what in (([], "no sources"), ([one, {**other, "name": one["name"]}], "two names")):
        answer = lab.client.call("create_data_pipeline", sources)
        said = {"sources": sources, "seen": answer.error or "no error"}
        assert lab.fact(answer.error.startswith("ValueError"), "refused", **said), hint(what[:3])

    kind = "".join(lab.rng.choices("bcdfg", k=5))
    unknown = [{**one, "type": kind}, other]
    answer = lab.client.call("create_data_pipeline", unknown)
    if answer.error:
        seen = answer.error
        refused = seen.startswith("ValueError") and kind in seen
    else:
        run = works.start(unknown)
        works.finish([run])
        seen = run.error or told(run.call)
        refused = "ValueError" in seen and kind in seen
    assert lab.fact(refused, "unknown_type", type=kind, seen=seen), hint("type")


@check(after=test_delivers_everything)
def test_stages_in_order(lab):
    """Each source has its own extract, validate and transform, each led to by the one before."""
    works = works_of(lab)

    run = works.start(works.three())
    finished(lab, works, run)
    works.settle()

    steps = works.steps(run.mark)
    for stage in STAGES[:3]:
        count = sum(f"{stage}_data" in step.names for step in steps.values())
        assert lab.fact(count == 3, "stage_count", stage=f"{stage}_data", seen=count)
    for before, after in itertools.pairwise(STAGES[:3]):
        causes = set()
        for step in works.stage(f"{after}_data", run.mark):
            led = [s.id for s in ancestors(step, steps) if f"{before}_data" in s.names]
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


def waiting(works, source):
    """Whether a request for a page of this API source waits for its answer right now."""
    return any(r.answered is None for r in works.api_service.requests(source["name"]))


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
        quick = lab.until(
            lambda: any(s.succeeded for s in works.stage("transform_data", run.mark)), LOOK
        )
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


# ------------------------------------------------------------------------------- failures


def failures(lab):
    """Start workflows that must fail, all at once, and wait for their end.

    Returns:
        What is wrong -> (run, the names of the sources that fail), and the notifications.
    """
    works = works_of(lab)

    def make():
        works.settle()
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
        rows = works.records(600)
        rows.insert(400, (REFUSED, 1))
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
        runs = {
            what: (works.start([works.database(), *bad]), {source["name"] for source in bad})
            for what, bad in batches.items()
        }
        works.finish([run for run, _ in runs.values()])
        lab.until(lambda: len(works.notices()) - notes >= len(runs), LOOK)
        works.settle()
        notices = works.notices()[notes:]
        pages.release()
        return runs, notices

    return lab.once("failures", make)


def assert_failed(lab, works, what, run):
    """The caller was told that the workflow has failed, and nothing was loaded."""
    said = {"what": what, "sources": run.kinds, "seen": run.error or told(run.call)}
    assert lab.fact(run.id and not run.error, "started", seen=run.error), hint("started")
    assert lab.fact(run.ending == "final", "fails_late", **said), hint("late")
    assert lab.fact(run.call.reply.failed, "fails", **said), hint("succeeded")
    rows = works.rows(run.names)
    assert lab.fact(not rows, "nothing_loaded", seen=len(rows), what=what), hint("partial")


def failed(run):
    """Whether the workflow has ended in FAILURE."""
    return run.ending == "final" and run.call.reply.failed


@check(after=test_delivers_everything)
def test_failing_source(lab):
    """A source that can't be read fails the workflow: nothing is loaded, the caller is told."""
    runs, _ = failures(lab)

    for what in ("missing", "corrupt", "page", "silent"):
        assert_failed(lab, works_of(lab), what, runs[what][0])


@check(after=test_delivers_everything)
def test_failing_load(lab):
    """A row that the target refuses fails the workflow, and no other row of the run is loaded."""
    runs, _ = failures(lab)

    assert_failed(lab, works_of(lab), "load", runs["load"][0])


@check(after=test_delivers_everything)
def test_failure_notified_once(lab):
    """Each failed workflow is notified once, however many of its sources fail."""
    runs, notices = failures(lab)

    ended = {what: pair for what, pair in runs.items() if failed(pair[0])}
    assert lab.fact(ended, "none_ended")
    texts = [str(notice.get("error")) for notice in notices if notice.get("status") == "failed"]
    good = [n for n in notices if n.get("status") != "failed"]
    succeeded = sum(run.ending == "final" and not failed(run) for run, _ in runs.values())
    assert lab.fact(len(good) <= succeeded, "not_failed", seen=good[-1:]), hint("status")
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


@check(after=test_delivers_everything)
def test_notification_is_tried_again(lab):
    """A notification that is not answered with 2xx is tried again, three times in all."""
    works = works_of(lab)

    lab.http["notify"].script("outcome", fail(404), then=ok())
    run = works.start([works.database()])
    works.finish([run])
    works.settle()
    tries = len(works.notices()) - run.notes
    assert_succeeded(lab, run)
    assert lab.fact(tries == 2, "tries", wanted=2, seen=tries), hint("tries")

    lab.http["notify"].script("outcome", refuse(), then=fail(503))
    run = works.start([works.database()])
    works.finish([run])
    works.settle()
    lab.http["notify"].script("outcome", then=ok())
    tries = len(works.notices()) - run.notes
    assert lab.fact(tries == 3, "tries", wanted=3, seen=tries), hint("tries")
    said = {"what": "notify", "sources": run.kinds, "seen": told(run.call)}
    assert lab.fact(failed(run), "fails", **said), hint("swallowed")


# ------------------------------------------------------------------------------- killed children


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
        lab.restart_worker(concurrency=len(STAGES) + 1, extra={"LAB_STAND": str(folder)})
        runs, reached = {}, {}
        for stage in ("validate_data", "transform_data", "aggregate_results"):
            name = stage.partition("_")[0]
            runs[name], reached[name] = stopped_in(lab, works, folder, stage)
        # These three are held back by what a submission need not wait for longer than 5 seconds.
        source, pages = works.api(works.records(12), held=2)
        free = threading.Event()
        lab.http["notify"].script("outcome", then=hold(ok(), free.is_set))
        # No other workflow has so many records: its notification is known by their number.
        runs["notify"] = works.start([works.database(works.records(OWN_TOTAL))])
        reached["notify"] = lab.until(lambda: works.notices()[runs["notify"].notes :], LOOK)
        began = time.monotonic()
        with works.locked():
            # The load has the target open and waits for the right to write.
            runs["load"] = works.start([works.database(), works.csv()])
            runs["extract"] = works.start([source])
            reached["load"] = lab.until(lambda: holds(lab, works.target), LOOK)
            reached["extract"] = lab.until(lambda: waiting(works, source), LOOK)
            for child in list(lab.worker.pool):
                lab.kill_child(child)
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
    run = works.start([works.database()])

    def stands():
        # The event as well: it says that the worker knows who has the task.
        return not path.exists() and any(step.starts for step in works.stage(function, run.mark))

    return run, lab.until(stands, LOOK)


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


@check(after=test_delivers_everything)
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


@check(after=test_delivers_everything)
def test_killed_in_join_or_load(lab):
    """A child killed in aggregate_results or in the middle of load_data: one complete load."""
    for stage in ("aggregate", "load"):
        assert_survived(lab, works_of(lab), stage)


@check(after=test_delivers_everything)
def test_killed_while_notifying(lab):
    """A child killed while its notification is under way: it is notified again, loaded once."""
    works, run = works_of(lab), killed(lab)[0]["notify"]

    assert_survived(lab, works, "notify")
    told_of = {notice.get("total_loaded") for notice in works.notices(answered=200)}
    answered = works.wanted(run).total() in told_of
    assert lab.fact(answered, "noticed_again")


# ------------------------------------------------------------------------------- progress


@check(after=test_delivers_everything)
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
    lab.until(lambda: any(s.succeeded for s in works.stage("transform_data", run.mark)), LOOK)
    lab.until(lambda: look()["percent"] > 0, LOOK)
    free, notes, began = threading.Event(), len(works.notices()), time.monotonic()
    lab.http["notify"].script("outcome", then=hold(ok(), free.is_set))
    held = pages.release()
    lab.until(lambda: len(works.notices()) > notes, LOOK)
    look()  # everything is done but the notification
    free.set()
    assert_patience(held, time.monotonic() - began)
    lab.http["notify"].script("outcome", then=ok())
    lab.until(lambda: look()["state"] in ("SUCCESS", "FAILURE"), 30)
    works.finish([run])
    look()

    assert_progress(lab, seen)
    gone = works.database()
    (lab.data / f"{gone['name']}.db").unlink()
    run = works.start([gone, works.database()])
    works.finish([run])
    now = progress(lab, watcher, run.id)
    bad = now["state"] == "FAILURE" and now["failed"] >= 1 and now["percent"] < 100
    assert lab.fact(bad, "progress_failed", seen=now), hint("failed")
    answer = watcher.call("workflow_progress", "no-such-workflow")
    refused = answer.error.startswith("ValueError")
    assert lab.fact(refused, "progress_unknown", seen=answer.error or answer.value), hint("unknown")


def progress(lab, watcher, id):
    """Ask another process how far a workflow is; its answer has the five keys."""
    answer = watcher.call("workflow_progress", id)
    row = answer.value if isinstance(answer.value, dict) else {}
    numbers = [row.get(key) for key in ("total", "completed", "failed", "percent")]
    whole = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    shaped = isinstance(row.get("state"), str) and whole
    assert lab.fact(shaped, "progress_shape", seen=answer.error or answer.value), hint("shape")
    return row


def assert_progress(lab, seen):
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
    assert lab.fact(done, "progress_ends", seen=last), hint("ends")
