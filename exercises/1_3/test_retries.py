"""What exercise 1_3 tries again and what not, with the right result in the end.

Nothing waits long: the worker starts a retry a hundred times sooner than it was planned for
(exercise.toml, `speed`), and every planned wait is read from the retry's message. How often a task
ran, the service's log tells. The other files: what is logged, what is left when the retries are
spent, how long is waited, what takes workers of its own, and the extension challenges.
"""

from __future__ import annotations

import gzip
import math

from grader.check import check, hint
from grader.expect import fails_with, observed, returns
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
    seen = len(lab.http["flaky"].requests(key))
    assert lab.fact(seen == 1, "asked_once", call=empty, seen=seen), hint(
        "asked_more" if seen else "unasked"
    )


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
    rows = [(JOBS[0], [500, 503]), (JOBS[0], [odd]), (JOBS[0], [502, 501, 504])]
    rows += [(JOBS[1], [500, 503]), (JOBS[2], [503])]
    jobs = [Job(lab, function, *map(fail, codes)) for function, codes in rows]
    for site, codes in enumerate(([500, 503], [odd], [429, 502, 501]), 1):
        jobs.append(Job(lab, "fetch_url", *map(fail, codes), site=f"site{site}"))

    for job in finish(lab, jobs):
        assert job.call == returns(job.right), hint("not_retried")


@check(after=test_stays_one_task)
def test_broken_connections(lab):
    """A refused connection and a body that ends early are retried like a 503."""
    page = answer(200, "x" * 400)
    rows = [("unreliable_task", cut(ok("y" * 400), 60)), ("fetch_url", cut(page, 60))]
    rows += [(function, refuse()) for function in ("unreliable_task", "fetch_url")]

    with lab.tapped():
        jobs = finish(lab, [Job(lab, *row) for row in rows])
    for job in jobs:
        mistake = "cut" if job.requests and job.requests[0].answered == "cut" else "refused"
        assert job.call == returns(job.right), hint(mistake)
    if not all(job.trail.retries for job in jobs if job.function == "fetch_url"):
        return  # It waits and tries again in its own process: no message will tell.

    # Nobody listens there: that is another exception than a connection that is reset. Said to be
    # tried again twice already, it fails too seldom for a circuit breaker to put it off.
    with lab.tapped():
        nobody = lab.send("fetch_url", f"http://127.0.0.1:{lab.free_port()}/", retries=2)
        lab.finish([nobody])
    times = lab.history.published(nobody.id)
    said = {"call": nobody, "seen": observed(nobody)}
    assert lab.fact(times > 1, "closed_port", **said), hint("refused")


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
    bad = [None, "12", "", {"a": 1}, {}, 7, [1, "2"], [None], [[1]], [1, math.nan], [-math.inf, 2]]
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

    service.script(key := word(lab), then=answer(201, "made"))
    made = lab.call("fetch_url", service.address(key))
    wanted = {"status_code": 201, "content_length": 4, "url": service.address(key)}
    assert made == returns(wanted), hint("other_status")
