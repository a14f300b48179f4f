"""What is left when the retries of exercise 1_3 are spent: a failure, its error, a dead letter."""

from __future__ import annotations

import contextlib
import json

from grader.check import check, hint, named
from grader.clock import parse_offset_datetime
from grader.job import JOBS, LIMITS, Job, finish, spent
from grader.services.http import fail, refuse

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


def unheard(lab):
    """Return jobs whose service never answers at all, the same ones each time."""

    def make():
        with lab.tapped():
            return finish(lab, [Job(lab, function, refuse(times=40)) for function in JOBS])

    return lab.once("unheard", make)


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
    for job in [*spent(lab), *unheard(lab)]:
        seen, wanted = len(job.requests), job.trail.attempts
        said = {"call": job.call, "attempts": wanted, "seen": seen}
        assert lab.fact(seen == wanted, "one_request", **said)


@check(after=test_gives_up)
def test_dead_letter(lab):
    """When its retries are spent, custom_retry_task appends one complete dead letter."""
    jobs = [job for job in spent(lab) if job.function == "custom_retry_task"]
    # And one that met no answer at all in the end.
    jobs.append(Job(lab, "custom_retry_task", fail(times=3), refuse(times=40)))
    for job in finish(lab, jobs):
        lab.until(lambda job=job: letters(lab, job), within=2)
        found = letters(lab, job)
        assert lab.fact(found, "letter_there", call=job.call, seen=strangers(lab)), hint("missing")
        letter, call = found[0], job.call
        wanted = {
            "task_id": call.id,
            "task": call.task,
            "args": list(call.args),
            "attempts": 4,
        }
        for field, value in wanted.items():
            said = {"field": field, "wanted": value, "seen": letter.get(field, "-")}
            assert lab.fact(letter.get(field) == value, "letter_field", **said)
        error = letter.get("error")
        good = isinstance(error, str) and error.strip()
        assert lab.fact(good, "letter_error", seen=error)
        assert lab.fact(has_offset(letter.get("at")), "letter_time", seen=letter.get("at"))


def letters(lab, job):
    """Return the dead letters of one call."""
    return [row for row in all_letters(lab) if row.get("task_id") == job.call.id]


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


def has_offset(text):
    """Whether this is ISO 8601 with an offset."""
    with contextlib.suppress(ValueError):
        return bool(parse_offset_datetime(text))
    return False


@check(after=test_dead_letter)
def test_dead_letter_once(lab):
    """A dead letter is written once a task, and never for one that still succeeds."""
    dead = [job for job in spent(lab) if job.function == "custom_retry_task"]
    saved = [Job(lab, "custom_retry_task", fail(times=n)) for n in (1, 3)]
    finish(lab, saved)
    finish(lab, [Job(lab, "custom_retry_task")])  # what is still being written has time to come

    for job in dead:
        seen = len(letters(lab, job))
        assert lab.fact(seen == 1, "letter_once", call=job.call, seen=seen), hint("twice")
    for job in saved:
        seen = len(letters(lab, job))
        said = {"call": job.call, "ending": job.ending, "seen": seen}
        assert lab.fact(seen == 0, "letter_early", **said), hint("too_early")
