"""What the tasks of exercise 1_3 say in the worker's log before each retry."""

from __future__ import annotations

import re
from functools import partial

from grader.check import check, hint, named
from grader.job import JOBS, PAGE, Job, finish
from grader.services.http import fail, refuse, retry_after

# How a line of the worker's log begins, with Celery's own format or another one that has the time;
# what Celery itself says of a task; and what holds digits that are no attempt and no wait.
MOMENT = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:[\d.,]+([+-]\d\d:?\d\d|Z)?"
PREFIX = re.compile(rf"^(\[{MOMENT}[^\]]*\]|{MOMENT})\s*")
CELERYS = re.compile(
    r"Task \S+\[\S+\] (received\s*$|retry: Retry (in|at) |succeeded in |raised (un)?expected: )"
)
NOISE = re.compile(
    r"https?://\S+|[0-9a-f]{8}-[0-9a-f-]{27}|127\.0\.0\.1(:\d+)?|0x[0-9a-f]+|HTTP/1\.1|" + MOMENT
)
# An error's class is a word of several parts, such as RetryLater, or the one that Celery tells.
ERROR = r"503|(?i:unavailable)|\w(Error|Exception)\b|\b[A-Z][a-z]+[A-Z][A-Za-z]+\b"
TOLD = re.compile(r"retry: Retry (?:in|at) .*?: (\w+)\(")
LONGEST_LINE = 2000
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def own_lines(text):
    """Return the lines that the submission wrote, without their prefix and without noise.

    The text of an error may have an end of a line in it: the line that was logged counts with what
    follows as well, as far as the next line or a traceback.
    """
    lines, whole = [], ""
    for line in (line[:LONGEST_LINE] for line in text.splitlines()):
        begins = PREFIX.match(line)
        if CELERYS.search(line) or line.startswith("Traceback"):
            whole = ""
            continue
        line = NOISE.sub(" ", PREFIX.sub("", line))
        lines.append(line)
        if begins:
            whole = line
        elif whole:
            # Whatever else is printed after it, an error's text is not so long.
            whole = f"{whole} {line}"[:LONGEST_LINE]
            lines.append(whole)
    return [line for line in lines if line.strip()]


def errors_of(job, text):
    """Return what names the error of a job's attempts in a line of the log.

    How somebody calls a lost connection can't be foreseen: beside the two numbers anything will do.
    """
    if any(request.answered == "refused" for request in job.requests):
        return re.compile("")
    return re.compile("|".join([ERROR, *(rf"\b{name}\b" for name in set(TOLD.findall(text)))]))


def tells(line, attempt, wait, error):
    """Return how many of the three a line names: the number of the attempt, the wait, the error."""
    numbers = [float(n) for n in NUMBER.findall(line)]
    counted = attempt in numbers
    if counted:
        numbers.remove(attempt)
    waits = any(wait.within(n, n, 0.51) for n in numbers)
    return counted + waits + bool(error.search(line))


@check(after=named("recovers"))  # in test_retries.py
def test_log_lines(lab):
    """Each retry logs one line: the failed attempt's number, the wait in seconds, the error."""
    rows = [(JOBS[0], fail(times=2)), (JOBS[1], fail(times=3)), (JOBS[2], fail(times=3))]
    rows += [(PAGE, retry_after(7, times=2)), (JOBS[0], refuse()), (PAGE, refuse())]
    # One task at a time: a line need not say whose it is.
    for function, step in rows:
        start = len(lab.worker.log)
        with lab.tapped():
            job = Job(lab, function, step, site="site4")
            finish(lab, [job])
        for attempt, wait in enumerate(job.trail.waits, 1):
            look = partial(nearest, lab, job, start, attempt, wait)
            lab.until(lambda look=look: look()[-1][0] == 3, within=2)
            # There may be much else in the log.
            seen = [line for _, line in look()[-2:] if line]
            said = {"call": job.call, "attempt": attempt, "wait": wait, "seen": seen}
            key = "log_line_lost" if step.refused else "log_line"
            right = look()[-1][0] == 3
            assert lab.fact(right, key, **said), hint("default" if seen else "silent")


def nearest(lab, job, start, attempt, wait):
    """Return (how many of the three it names, line) for all lines, the nearest one last.

    Of equal ones it is the newest. There is always one: no line names nothing.
    """
    text = lab.worker.log[start:]
    error = errors_of(job, text)
    rows = [(tells(line, attempt, wait, error), line) for line in own_lines(text)]
    return sorted([(0, ""), *rows], key=lambda row: row[0])
