"""The extension challenges of exercise 2_1."""

from __future__ import annotations

import contextlib
from collections import Counter

from grader.check import check, hint, named
from grader.errors import LabFault
from grader.history import Message
from grader.outcome import told, works_of
from grader.pipeline import assert_patience
from grader.services.http import fail, ok
from grader.steps import matched, spans

LOOK = 8.0
STAGES = {"extract_data", "validate_data", "transform_data", "aggregate_results", "load_data"}
STAGES |= {"send_notification"}
PAGES = 8
LARGE, LARGEST_KIB, LARGEST_MB = 200_000, 256, 150
LARGE_SECONDS = 180.0
DELIVERS = named("delivers_everything")  # in another file
UNREAD = "?"  # the task of a message that is too long to be looked into


def ended(lab, works, run, state, within=30.0):
    """Wait for a workflow that is expected to end in this state."""
    assert lab.fact(run.id and not run.error, "started", seen=run.error)
    works.finish([run], within)
    reply = run.call.reply
    key = "succeeded" if state == "SUCCESS" else "fails"
    said = {"run": run.call, "what": "notify", "sources": run.kinds, "seen": told(run.call)}
    assert lab.fact(reply and reply.state == state, key, **said)


@check(after=DELIVERS)
def test_rollback(lab):
    """Challenge 1: after three failed notifications a task removes the run's rows, no others."""
    works = works_of(lab)
    sources = [works.database(), works.csv()]
    first = works.start(sources)
    ended(lab, works, first, "SUCCESS")
    kept = works.wanted(first).total()

    lab.http["notify"].script("outcome", then=fail(503))
    run = works.start(sources)
    ended(lab, works, run, "FAILURE")
    lab.until(lambda: len(works.rows(run.names)) <= kept, LOOK)
    works.settle()
    lab.http["notify"].script("outcome", then=ok())

    loads = [step.succeeded for step in works.stage("load_data", run.mark) if step.succeeded]
    later = [s for s in works.steps(run.mark).values() if loads and s.starts and s.names]
    names = sorted({name for step in later for name in step.names})
    rows = Counter(row[0] for row in works.rows(run.names))
    assert lab.fact(len(rows) <= 1, "rolled_back", seen=sum(rows.values()) - kept)
    assert lab.fact(rows.total() == kept, "others_kept", wanted=kept, seen=rows.total()), hint(
        "others"
    )
    assert lab.fact(set(names) - STAGES, "rolled_back_by", seen=names)


@check(after=DELIVERS)
def test_live_progress(lab):
    """Challenge 2: python -m complex_workflows watch ID shows it to the end and exits 0 or 1."""
    works = works_of(lab)
    slow, pages = works.api(held=2)
    run = works.start([slow, works.database()])
    assert lab.fact(run.id and not run.error, "started", seen=run.error)

    program = lab.start_program("-m", lab.exercise.module, "watch", run.id)
    lab.until(lambda: program.output.text.strip() or not program.alive, LOOK)
    # A program that ends after its first line needs a moment to be gone.
    alive = not lab.until(lambda: not program.alive, within=1.5)
    printed = (program.output.text if alive else program.output.finish(0.5)).strip()
    held = pages.release()
    works.finish([run])
    assert lab.fact(alive, "watch_early", seen=program.exit_code, said=printed[-300:])
    assert lab.fact(printed, "watch_lines", seen=printed[-300:])
    assert_patience(held)
    ended(lab, works, run, "SUCCESS")
    assert_exit(lab, program, 0, "SUCCESS")

    gone = works.database()
    (lab.data / f"{gone['name']}.db").unlink()
    run = works.start([gone])
    assert lab.fact(run.id and not run.error, "started", seen=run.error)
    assert_exit(lab, lab.start_program("-m", lab.exercise.module, "watch", run.id), 1, "FAILURE")


def assert_exit(lab, program, wanted, state):
    """The program ends by itself, with this exit code."""
    lab.until(lambda: not program.alive, 20)
    said = {"seen": program.exit_code, "said": program.output.finish(0.5)[-300:]}
    assert lab.fact(program.exit_code == wanted, "watch_exit", wanted=wanted, state=state, **said)


@check(after=DELIVERS)
def test_pages_are_tasks(lab):
    """Challenge 3: the pages of one API source become tasks of their own as the workflow runs."""
    works = works_of(lab)
    source, pages = works.api(works.records(PAGES * 5))
    assert pages.count == PAGES

    with lab.tapped():
        run = works.start([source])
        ended(lab, works, run, "SUCCESS")
        works.settle()

    moments = [request.at for request in works.api_service.requests(source["name"])]
    # Anybody can tell of a task; it was one if the broker had its message.
    steps = [step for step in works.steps(run.mark).values() if lab.history.published(step.id)]
    times = [span for step in steps for span in spans(step)]
    seen = matched(moments, times)
    assert lab.fact(seen >= PAGES, "page_tasks", wanted=PAGES, seen=seen)


@check(after=DELIVERS)
def test_large_data(lab):
    """Challenge 4: 200 000 records a source, no message over 256 KiB, at most 150 MB more."""
    works = works_of(lab)
    records = [(n, n / 4) for n in range(LARGE)]
    sources = [works.csv(records), works.database(records)]
    small = works.start([works.database(), works.csv()])
    ended(lab, works, small, "SUCCESS")
    before, most, mark = resident(lab), [0.0], len(lab.history.messages)

    def too_large():
        most[0] = max(most[0], resident(lab))
        return largest(lab, mark).size > LARGEST_KIB * 1024

    run = None
    try:
        with lab.tapped():
            run = works.start(sources)
            works.finish([run], LARGE_SECONDS, too_large)
    except LabFault:
        # Behind messages of many megabytes our own may come too late; they say enough.
        if run is None or largest(lab, mark).size <= LARGEST_KIB * 1024:
            raise

    large = largest(lab, mark)
    # What is still under way would disturb the next check.
    lab.dirty = not run.ending
    said = {"task": large.task, "limit": LARGEST_KIB, "seen": large.size // 1024}
    key = "message_size_unread" if large.task == UNREAD else "message_size"
    assert lab.fact(large.size <= LARGEST_KIB * 1024, key, **said)
    grown = round(most[0] - before)
    said = {"limit": LARGEST_MB, "seen": grown}
    assert lab.fact(grown <= LARGEST_MB, "memory", **said), hint("memory")
    ended(lab, works, run, "SUCCESS", 1.0)
    seen, wanted = Counter(row[1] for row in works.rows(run.names)), works.wanted(run).total()
    said = {"run": run.call, "wanted": wanted, "seen": seen.total(), "missing": "-", "extra": "-"}
    assert lab.fact(seen.total() == wanted, "complete", **said)


def largest(lab, mark):
    """Return the largest message that was published since there were `mark` of them."""
    seen = lab.history.messages[mark:]
    return max(seen, key=lambda message: message.size, default=Message("-", "", "", "", 0, None, 0))


def resident(lab):
    """Return the resident memory of the worker's processes together, in MB."""
    total = 0
    for process in lab.worker.child.family:
        with contextlib.suppress(Exception):  # one that has just ended
            total += process.memory_info().rss
    return total / 1e6
