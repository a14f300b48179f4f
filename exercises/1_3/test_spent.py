"""What is left when the retries of exercise 1_3 are spent: a failure, its error, a dead letter."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

from grader.check import check, hint, named
from grader.clock import parse_offset_datetime
from grader.job import LIMITS, Job, finish, spent, unheard
from grader.services.http import fail, refuse
from grader.trail import answered_at

DEAD_LETTERS = "retry_tasks:dead_letter"
ONE_TASK = named("stays_one_task")  # in test_retries.py


@check(after=ONE_TASK)
def test_gives_up(lab):
    """Retries are limited: 3, 5, 5 and 3 of them, then the task ends in FAILURE."""
    for job in spent(lab):
        seen, wanted = job.trail.attempts, LIMITS[job.function] + 1
        said = {"call": job.call, "wanted": wanted, "seen": seen, "ending": job.ending}
        mistake = "endless" if seen > wanted else "default"
        assert lab.fact(seen == wanted, "attempts", **said), hint(mistake)
        failed = job.call.reply is not None and job.call.reply.failed
        assert lab.fact(failed, "ends_in_failure", call=job.call, ending=job.ending)


@check(after=test_gives_up)
def test_last_error(lab):
    """After the last retry the task's error is the last attempt's own, and it names the status."""
    for job in spent(lab):
        kind, text = job.call.reply.error_type, told(job.call.reply)
        said = {"call": job.call, "ending": job.ending}
        celerys = kind in ("Retry", "MaxRetriesExceededError")
        assert lab.fact(not celerys, "own_error", **said), hint("celerys_error")
        named = "503" in text or "service unavailable" in text.lower()
        earlier = "500" in text or "internal server error" in text.lower()
        mistake = "earlier_error" if earlier else "no_cause"
        assert lab.fact(named, "names_cause", **said), hint(mistake)

    for job in unheard(lab):
        kind = job.call.reply.error_type if job.call.reply else ""
        celerys = kind in ("Retry", "MaxRetriesExceededError")
        said = {"call": job.call, "ending": job.ending}
        assert lab.fact(not celerys, "own_error", **said), hint("celerys_error")


def told(reply):
    """Return an error's text, with the last line of its traceback: what str() gave is there."""
    document = {}
    with contextlib.suppress(ValueError):  # cut off where it was very long
        document = json.loads(reply.raw)
    lines = str(document.get("traceback") or "").strip().splitlines()
    return " ".join([reply.error_message, *lines[-1:]])


@check(after=test_gives_up)
def test_one_request_an_attempt(lab):
    """An attempt is one request: nothing else tries again behind the task's back."""
    # Who publishes no retry at all counts by its requests, there and here.
    publish = {job.function for job in spent(lab) if job.trail.retries}
    for job in [*spent(lab), *unheard(lab)]:
        seen, trail = len(job.requests), job.trail
        wanted = 1 + len(trail.retries) if job.function in publish else trail.attempts
        said = {"call": job.call, "attempts": wanted, "seen": seen}
        assert lab.fact(seen == wanted, "one_request", **said)


@check(after=test_gives_up)
def test_dead_letter(lab):
    """When its retries are spent, custom_retry_task appends one complete dead letter."""
    for job in [*customs(spent(lab)), *more_customs(lab)]:
        lab.until(lambda job=job: letters(lab, job), within=2)
        found = letters(lab, job)
        assert lab.fact(found, "letter_there", call=job.call, seen=strangers(lab)), hint("missing")
        letter, call = found[0], job.call
        wanted = {
            "task_id": call.id,
            "task": call.task,
            "args": [job.arguments["task_data"]],
            "attempts": 4,
        }
        for field, value in wanted.items():
            said = {"field": field, "wanted": value, "seen": letter.get(field, "-")}
            assert lab.fact(letter.get(field) == value, "letter_field", **said)
        error = letter.get("error")
        good = isinstance(error, str) and error.strip()
        assert lab.fact(good, "letter_error", seen=error)
        said = {"seen": letter.get("at")}
        assert lab.fact(moment(letter.get("at")), "letter_time", **said)
        # An offset that is not that of the clock which was read makes hours of difference.
        failed = answered_at(job.requests[-1])
        right = abs(moment(letter["at"]).timestamp() - failed) < 600
        said["failed"] = datetime.fromtimestamp(failed, UTC).isoformat(timespec="seconds")
        assert lab.fact(right, "letter_moment", **said), hint("moment")


def more_customs(lab):
    """Return two more calls with spent retries: at last one got no answer, one was by keyword.

    Not of a task that does not try that again, which is a mistake of its own.
    """
    with lab.tapped():
        jobs = [Job(lab, "custom_retry_task", fail(times=40), named=True)]
        if all(job.trail.retries for job in customs(unheard(lab))):
            jobs.append(Job(lab, "custom_retry_task", fail(times=3), refuse(times=40)))
        finish(lab, jobs)
    return [job for job in jobs if job.trail.attempts == LIMITS[job.function] + 1]


def customs(jobs):
    """Return those that are calls of custom_retry_task."""
    return [job for job in jobs if job.function == "custom_retry_task"]


def letters(lab, job):
    """Return the dead letters of one job."""
    return letters_of(lab, job.call)


def letters_of(lab, call):
    """Return the dead letters of one call."""
    return [row for row in all_letters(lab) if row.get("task_id") == call.id]


def all_letters(lab):
    """Return every dead letter that is a JSON object; a list of another type has none."""
    found = []
    with contextlib.suppress(Exception):
        for raw in lab.backend.lrange(DEAD_LETTERS, 0, -1):
            with contextlib.suppress(ValueError, RecursionError):
                found.append(json.loads(raw))
    return [row for row in found if isinstance(row, dict)]


def strangers(lab):
    """Say in a few words what the list holds."""
    return f"{len(all_letters(lab))} JSON objects, {lab.backend.type(DEAD_LETTERS).decode()}"


def moment(text):
    """Return the time that ISO 8601 with an offset tells, None for anything else."""
    with contextlib.suppress(ValueError):
        return parse_offset_datetime(text)
    return None


@check(after=test_dead_letter)
def test_dead_letter_once(lab):
    """A dead letter is written once a task, and never for one that still succeeds."""
    with lab.tapped():
        saved = [Job(lab, "custom_retry_task", fail(times=n)) for n in (1, 3)]
        keyless = lab.send("custom_retry_task", {"note": 1})
        finish(lab, saved)
        lab.finish([keyless])
        # What is still being written has time to come.
        finish(lab, [Job(lab, "custom_retry_task")])

    for job in customs(spent(lab)):
        seen = len(letters(lab, job))
        assert lab.fact(seen == 1, "letter_once", call=job.call, seen=seen), hint("twice")
    for job in saved:
        seen = len(letters(lab, job))
        said = {"call": job.call, "ending": job.ending, "seen": seen}
        assert lab.fact(seen == 0, "letter_early", **said), hint("too_early")
    # How it fails without a key is left open, and whether that is tried again.
    calls = [keyless] if lab.history.published(keyless.id) < 4 else []
    others = [*spent(lab), *unheard(lab)]
    calls += [job.call for job in others if job.function != "custom_retry_task"]
    for call in calls:
        seen = len(letters_of(lab, call))
        assert lab.fact(seen == 0, "letter_unspent", call=call, seen=seen), hint("unspent")
