"""What exercise 1_3 tries again and what not, with the right result in the end, and a line a retry.

Nothing waits long: the worker starts a retry a hundred times sooner than it was planned for
(exercise.toml, `speed`), and every planned wait is read from the retry's message. How often a task
ran, the service's log tells. The other files: what is left when the retries are spent, how long is
waited, what takes workers of its own, and the extension challenges.
"""

from __future__ import annotations

import gzip
import math
import re

from grader.check import check, hint
from grader.expect import fails_with, returns
from grader.job import JOBS, LIMITS, Job, finish, word
from grader.services.http import answer, cut, fail, ok, refuse, retry_after


@check
def test_healthy_service(lab):
    """While the service is healthy, each task asks it once and returns what it should."""
    missing = lab.unregistered(LIMITS)
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)

    jobs = [Job(lab, function) for function in LIMITS]
    values = [{"parts": [1, None, "x"]}, 0]
    odd = [Job(lab, "unreliable_task", then=ok(value)) for value in values]
    lab.http["flaky"].script(key := word(lab), then=ok())
    empty = lab.send("exponential_backoff_task", [], key)
    finish(lab, [*jobs, *odd])
    lab.finish([empty])

    for job in jobs:
        assert job.call == returns(job.right)
        seen = len(job.requests)
        assert lab.fact(seen == 1, "asked_once", call=job.call, seen=seen), hint("asked_more")
    for job, value in zip(odd, values, strict=True):
        assert job.call == returns(value)
    assert empty == returns([]), hint("empty_list")


@check(after=test_healthy_service)
def test_stays_one_task(lab):
    """A task that will be tried again is not finished: it keeps its id, and SUCCESS comes last."""
    before = len(lab.history.messages)
    with lab.tapped():
        jobs = [Job(lab, function, then=fail()) for function in JOBS]
        # The waits of the page's task are drawn; this header makes them long enough to look.
        jobs.append(Job(lab, "fetch_url", retry_after(9, times=4)))
        finish(lab, jobs)

    ours = {job.call.id for job in jobs}
    for job in jobs:
        reply, answered = job.call.reply, [r.answered for r in job.requests]
        early = reply and reply.succeeded and (reply.result != job.right or 200 not in answered)
        said = {"call": job.call, "seen": answered, "result": reply and reply.result}
        assert lab.fact(not early, "early_success", **said), hint("swallowed")
    others = [m for m in lab.history.messages[before:] if m.id not in ours]
    others = sorted({m.task for m in others if m.task.rpartition(".")[2] in LIMITS})
    assert lab.fact(not others, "same_id", seen=others), hint("new_task")


@check(after=test_stays_one_task)
def test_recovers(lab):
    """When the service comes back in time, the right value comes back too."""
    odd = lab.rng.choice([507, 520, 599])
    rows = [(JOBS[0], [500, 503]), (JOBS[0], [odd]), (JOBS[0], [502, 504])]
    rows += [(JOBS[1], [500, 503]), (JOBS[2], [503])]
    jobs = [Job(lab, function, *map(fail, codes)) for function, codes in rows]
    for site, codes in enumerate(([500, 503], [odd], [429, 502]), 1):
        jobs.append(Job(lab, "fetch_url", *map(fail, codes), site=f"site{site}"))

    for job in finish(lab, jobs):
        assert job.call == returns(job.right), hint("not_retried")


@check(after=test_stays_one_task)
def test_broken_connections(lab):
    """A refused connection and a body that ends early are retried like a 503."""
    page = answer(200, "x" * 400)
    rows = [("unreliable_task", cut(ok("y" * 400), 60)), ("fetch_url", cut(page, 60))]
    rows += [(function, refuse()) for function in ("unreliable_task", "fetch_url")]

    for job in finish(lab, [Job(lab, *row) for row in rows]):
        mistake = "cut" if job.requests and job.requests[0].answered == "cut" else "refused"
        assert job.call == returns(job.right), hint(mistake)


@check(after=test_stays_one_task)
def test_anything_but_200(lab):
    """The other two job tasks retry whatever is not 200: 404, 204, no answer at all."""
    first = [fail(404), answer(204), refuse(), fail(418)]
    rows = [(function, step) for function in JOBS[1:] for step in first]

    for job in finish(lab, [Job(lab, *row) for row in rows]):
        answered = [request.answered for request in job.requests]
        mistake = hint("other_success" if 204 in answered[:1] else "default")
        assert job.call == returns(job.right), mistake
        # What exponential_backoff_task returns does not tell whether its job was ever allowed.
        said = {"call": job.call, "seen": answered, "result": job.right}
        assert lab.fact(200 in answered, "early_success", **said), mistake


@check(after=test_stays_one_task)
def test_permanent_errors(lab):
    """unreliable_task and fetch_url fail at once on a 4xx; for fetch_url 429 is none of them."""
    odd = lab.rng.choice([402, 405, 422, 451])
    rows = [("unreliable_task", code) for code in (404, 400, 408, 429, odd)]
    rows += [("fetch_url", code) for code in (404, 403, 408, odd)]

    for job in finish(lab, [Job(lab, function, fail(code)) for function, code in rows]):
        failed = job.call.reply is not None and job.call.reply.failed
        once = len(job.requests) == 1
        said = {"call": job.call, "code": job.requests[0].answered if job.requests else "-"}
        said |= {"times": len(job.requests), "ending": job.ending}
        assert lab.fact(failed and once, "at_once", **said), hint("default" if once else "retried")


@check(after=test_stays_one_task)
def test_bad_data(lab):
    """exponential_backoff_task refuses what is no list of finite numbers: ValueError, unasked."""
    bad = [None, "12", {"a": 1}, 7, [1, "2"], [None], [[1]], [1, math.nan], [-math.inf, 2]]
    key = word(lab)
    lab.http["flaky"].script(key, then=ok())

    with lab.tapped():
        calls = lab.calls([("exponential_backoff_task", data, key) for data in bad])

    for call in calls:
        # First whether it was retried: one that was may have no reply at all yet.
        times = lab.history.published(call.id)
        assert lab.fact(times == 1, "runs_once", call=call, times=times), hint("retried")
        assert call == fails_with("ValueError")
    seen = len(lab.http["flaky"].requests(key))
    assert lab.fact(seen == 0, "no_request", seen=seen), hint("asked_first")


@check(after=test_stays_one_task)
def test_keyword_calls(lab):
    """A call by keyword works as well, and so do its retries."""
    jobs = [Job(lab, f, fail(), fail(), named=True, site="site2") for f in LIMITS]

    for job in finish(lab, jobs):
        assert job.call == returns(job.right)


# How a line of the worker's log begins, what Celery itself says of a retry, and what holds digits
# that are no attempt and no wait.
PREFIX = re.compile(r"^\[[^\]]*\]\s*")
CELERYS = re.compile(r"Task \S+\[\S+\] (received|retry: Retry in|succeeded|raised|scheduled)")
NOISE = re.compile(
    r"https?://\S+|[0-9a-f]{8}-[0-9a-f-]{27}|127\.0\.0\.1(:\d+)?|0x[0-9a-f]+|HTTP/1\.1"
)
# An error's class is a word of several parts, such as RetryLater.
ERROR = re.compile(r"503|(?i:unavailable)|\w(Error|Exception)\b|\b[A-Z][a-z]+[A-Z][A-Za-z]+\b")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def own_lines(text):
    """Return the lines that the submission wrote, without their prefix and without noise."""
    lines = [PREFIX.sub("", line) for line in text.splitlines() if not CELERYS.search(line)]
    return [NOISE.sub(" ", line) for line in lines]


def tells(line, attempt, wait):
    """Return how many of the three a line names: the number of the attempt, the wait, the error."""
    numbers = [float(n) for n in NUMBER.findall(line)]
    counted = attempt in numbers
    if counted:
        numbers.remove(attempt)
    waits = any(wait.within(n, n, 0.51) for n in numbers)
    return counted + waits + bool(ERROR.search(line))


@check(after=test_recovers)
def test_log_lines(lab):
    """Each retry logs one line: the failed attempt's number, the wait in seconds, the error."""
    # One task at a time: a line need not say whose it is.
    rows = [(JOBS[0], 1, ()), (JOBS[1], 3, ()), (JOBS[2], 3, ())]
    for function, times, steps in [*rows, ("fetch_url", 1, [retry_after(7)])]:
        start = len(lab.worker.log)
        with lab.tapped():
            job = Job(lab, function, *(steps or [fail(503, times=times)]), site="site4")
            finish(lab, [job])
        for attempt, wait in enumerate(job.trail.waits, 1):

            def found(attempt=attempt, wait=wait, start=start):
                lines = own_lines(lab.worker.log[start:])
                return any(tells(line, attempt, wait) == 3 for line in lines)

            lab.until(found, within=2)
            lines = [line for line in own_lines(lab.worker.log[start:]) if line.strip()]
            # The nearest to what is wanted, of equal ones the newest: there may be much else.
            lines.sort(key=lambda line: tells(line, attempt, wait))
            said = {"call": job.call, "attempt": attempt, "wait": wait, "seen": lines[-2:]}
            mistake = "default" if lines else "silent"
            assert lab.fact(found(), "log_line", **said), hint(mistake)


# ---------------------------------------------------------------------------- the page's own task


@check(after=test_healthy_service)
def test_page_facts(lab):
    """fetch_url counts the decoded body's bytes, and returns the URL as it was given."""
    # More bytes than letters: a text's length is another one.
    body = ("seen 已读 " * lab.rng.randint(50, 90)).encode()
    service, key = lab.http["site1"], word(lab)
    kind = {"Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip"}
    packed = answer(200, gzip.compress(body), kind)
    service.script(key, then=packed)
    url = f"{service.address(key)}?q=%7E{word(lab)}"

    call = lab.call("fetch_url", url)

    seen = call.reply.result if call.reply and call.reply.succeeded else None
    seen = seen if isinstance(seen, dict) else {}
    length = seen.get("content_length")
    mistake = "encoded" if length != len(body) else "other_url"
    wanted = {"status_code": 200, "content_length": len(body), "url": url}
    assert call == returns(wanted), hint(mistake)
