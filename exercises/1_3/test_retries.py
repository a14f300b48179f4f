"""The core checks of exercise 1_3 on the three tasks that ask for jobs, and on what all share.

Nothing waits long: the worker starts a retry a hundred times sooner than it was planned for
(exercise.toml, `speed`), and every planned wait is read from the retry's message. How often a task
ran, the service's log tells.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from grader.check import check, hint
from grader.clock import parse_offset_datetime
from grader.expect import fails_with, returns
from grader.services.http import answer, cut, delay, fail, ok, refuse, retry_after
from grader.trail import trail

JOBS = ("unreliable_task", "exponential_backoff_task", "custom_retry_task")
LIMITS = {JOBS[0]: 3, JOBS[1]: 5, JOBS[2]: 3, "fetch_url": 5}
WAITS = {JOBS[0]: [2, 2, 2], JOBS[1]: [1, 2, 4, 8, 16], JOBS[2]: [10, 20, 30]}
DEAD_LETTERS = "retry_tasks:dead_letter"
# Long for a worker that hurries; short enough to be told soon that nothing comes.
PATIENCE = 10


def word(lab):
    """Draw a key; it has no digit, so that none of a log line's numbers comes from it."""
    return "".join(lab.rng.choices("bcdfghjkmnpqrstvwxz", k=10))


class Job:
    """One call of one of the tasks, and the service that it asks."""

    def __init__(self, lab, function, *steps, then=None, site="site1", key="", **how):
        self.lab, self.function, self.key = lab, function, key or word(lab)
        self.service = lab.http["flaky" if function in JOBS else site]
        self.value = lab.rng.randint(100, 999)
        self.service.script(self.key, *steps, then=then or ok(self.value))
        self.begun = len(self.service.requests(self.key))
        self.since = how.get("retries", 0)
        self.call = self.send(**how)

    def send(self, named=False, retries=0):
        """Publish the call: by keyword, or as one that was tried again so often already."""
        numbers = [self.value, -0.5]
        arguments = {
            "unreliable_task": {"key": self.key},
            "exponential_backoff_task": {"data": numbers, "key": self.key},
            "custom_retry_task": {"task_data": {"key": self.key, "note": [1, "a"]}},
            "fetch_url": {"url": self.service.address(self.key)},
        }[self.function]
        row = () if named else tuple(arguments.values())
        kwargs = arguments if named else {}
        return self.lab.send(self.function, *row, within=PATIENCE, kwargs=kwargs, retries=retries)

    @property
    def right(self):
        """What the task returns once the service has answered as usual."""
        url = self.service.address(self.key)
        body = json.dumps({"value": self.value})
        return {
            "unreliable_task": self.value,
            "exponential_backoff_task": [self.value * 2, -1.0],
            "custom_retry_task": {"value": self.value},
            "fetch_url": {"status_code": 200, "content_length": len(body), "url": url},
        }[self.function]

    @property
    def requests(self):
        """What the service got for this call."""
        return self.service.requests(self.key)[self.begun :]

    @property
    def trail(self):
        """What became of the call."""
        return trail(self.call, self.requests, self.lab.history.messages, self.since)

    @property
    def ending(self):
        """How the call ended, in a few words."""
        reply = self.call.reply
        if reply is None:
            return "-"
        return f"{reply.state} {reply.error_type} {reply.error_message[:90]}".strip()


def finish(lab, jobs):
    """Wait for the replies of all jobs and return them."""
    lab.finish([job.call for job in jobs])
    return jobs


@check
def test_healthy_service(lab):
    """While the service is healthy, each task asks it once and returns what it should."""
    missing = lab.unregistered(LIMITS)
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)

    jobs = [Job(lab, function) for function in LIMITS]
    nested = Job(lab, "unreliable_task", then=ok({"parts": [1, None, "x"]}))
    lab.http["flaky"].script(key := word(lab), then=ok())
    empty = lab.send("exponential_backoff_task", [], key)
    finish(lab, [*jobs, nested])
    lab.finish([empty])

    for job in jobs:
        assert job.call == returns(job.right)
        seen = len(job.requests)
        assert lab.fact(seen == 1, "asked_once", call=job.call, seen=seen), hint("asked_more")
    assert nested.call == returns({"parts": [1, None, "x"]})
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
        code = job.requests[0].answered if job.requests else None
        assert job.call == returns(job.right), hint("other_success" if code == 204 else "default")


@check(after=test_stays_one_task)
def test_permanent_errors(lab):
    """unreliable_task and fetch_url fail at once on a 4xx; for fetch_url 429 is none of them."""
    odd = lab.rng.choice([402, 405, 422, 451])
    rows = [("unreliable_task", code) for code in (404, 400, 429, odd)]
    rows += [("fetch_url", code) for code in (404, 403, odd)]

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


def spent(lab):
    """Let each task fail until its retries are spent; return the jobs, the same ones each time."""
    return lab.once("spent", lambda: spend(lab))


def spend(lab):
    """Exhaust every task; the last attempt meets another status than those before it.

    One that never gives up is let off after forty more requests.
    """
    jobs = []
    with lab.tapped():
        for function in JOBS * 3:
            first = fail(500, times=LIMITS[function])
            jobs.append(Job(lab, function, first, fail(503, times=40)))
        # A circuit breaker may open after five failures of a host in a row. So the third answer is
        # held back until another call has got a good one from the same host.
        third = delay(1.5, fail(500))
        steps = (fail(500, times=2), third, fail(500, times=2), fail(503, times=40))
        page = Job(lab, "fetch_url", *steps, site="site3")
        lab.until(lambda: len(page.requests) >= 3 or page.call.reply, within=PATIENCE)
        finish(lab, [Job(lab, "fetch_url", site="site3")])
        finish(lab, [*jobs, page])
        # The last four failed in a row; the next check may fail four more times there.
        finish(lab, [Job(lab, "fetch_url", site="site3")])
    return [*jobs, page]


@check(after=test_stays_one_task)
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
    for job in spent(lab):
        seen, wanted = len(job.requests), job.trail.attempts
        said = {"call": job.call, "attempts": wanted, "seen": seen}
        assert lab.fact(seen == wanted, "one_request", **said)


@check(after=test_gives_up)
def test_dead_letter(lab):
    """When its retries are spent, custom_retry_task appends one complete dead letter."""
    for job in [job for job in spent(lab) if job.function == "custom_retry_task"]:
        lab.until(lambda job=job: letters(lab, job), within=2)
        found = letters(lab, job)
        assert lab.fact(found, "letter_there", call=job.call, seen=strangers(lab)), hint("missing")
        letter, call = found[0], job.call
        wanted = {"task_id": call.id, "task": call.task, "args": list(call.args), "attempts": 4}
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


# How a line of the worker's log begins, what Celery itself says of a retry, and what holds digits
# that are no attempt and no wait.
PREFIX = re.compile(r"^\[[^\]]*\]\s*")
CELERYS = re.compile(r"Task \S+\[\S+\] (received|retry: Retry in|succeeded|raised|scheduled)")
NOISE = re.compile(
    r"https?://\S+|[0-9a-f]{8}-[0-9a-f-]{27}|127\.0\.0\.1(:\d+)?|0x[0-9a-f]+|HTTP/1\.1"
)
ERROR = re.compile(r"503|(?i:unavailable)|\w(Error|Exception)\b")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def own_lines(text):
    """Return the lines that the submission wrote, without their prefix and without noise."""
    lines = [PREFIX.sub("", line) for line in text.splitlines() if not CELERYS.search(line)]
    return [NOISE.sub(" ", line) for line in lines]


def tells(line, attempt, wait):
    """Whether a line names the number of the attempt, the wait, and the error."""
    numbers = [float(n) for n in NUMBER.findall(line)]
    if attempt not in numbers:
        return False
    numbers.remove(attempt)
    named = bool(ERROR.search(line))
    return named and any(wait.within(n, n, 0.51) for n in numbers)


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
                return any(tells(line, attempt, wait) for line in lines)

            lab.until(found, within=2)
            lines = [line for line in own_lines(lab.worker.log[start:]) if line.strip()]
            said = {"call": job.call, "attempt": attempt, "wait": wait, "seen": lines[-4:]}
            mistake = "default" if lines else "silent"
            assert lab.fact(found(), "log_line", **said), hint(mistake)


# ---------------------------------------------------------------------------- the page's own task


@check(after=test_healthy_service)
def test_page_facts(lab):
    """fetch_url counts the decoded body's bytes, and returns the URL as it was given."""
    body = ("seen " * lab.rng.randint(50, 90)).encode()
    service, key = lab.http["site1"], word(lab)
    packed = answer(200, gzip.compress(body), {"Content-Encoding": "gzip"})
    service.script(key, then=packed)
    url = f"{service.address(key)}?q=%7E{word(lab)}"

    call = lab.call("fetch_url", url)

    seen = call.reply.result if call.reply and call.reply.succeeded else None
    seen = seen if isinstance(seen, dict) else {}
    length = seen.get("content_length")
    mistake = "encoded" if length != len(body) else "other_url"
    wanted = {"status_code": 200, "content_length": len(body), "url": url}
    assert call == returns(wanted), hint(mistake)


@check(lane="workers", after=test_healthy_service)
def test_worker_stays_free(lab):
    """While a retry waits, a worker with one process does other work."""
    lab.restart_worker(concurrency=1)
    with lab.frozen():
        pairs = []
        for function in LIMITS:
            # Both lie in the queue before anything runs: the second call of the same task comes
            # before the retry of the first, however short that waits, unless the process is held.
            first = Job(lab, function, retry_after(5), site="site1")
            pairs.append((first, Job(lab, function, site="site2")))

    def decided():
        return all(second.requests or len(first.requests) > 1 for first, second in pairs)

    lab.until(decided, within=15)
    for first, second in pairs:
        again = first.requests[1].began if len(first.requests) > 1 else math.inf
        other = second.requests[0].began if second.requests else math.inf
        said = {"call": first.call, "other": second.call, "seen": len(first.requests)}
        assert lab.fact(other < again, "other_work", **said), hint("held")


def planned(lab, function):
    """Hold the planned waits of the three exhausted calls of a task against the contract.

    Three calls with five waits each: drawn from 0 to the right wait in whole seconds, they would
    all be right by luck once in 4590 ** 3, or 10 ** 11, tries. A right answer fails only where the
    clocks of one machine differ by half a second.
    """
    for job in [job for job in spent(lab) if job.function == function]:
        waits = job.trail.waits
        near = len(waits) == len(WAITS[function])
        near = near and all(w.near(n) for w, n in zip(waits, WAITS[function], strict=True))
        seen = ", ".join(map(str, waits)) or "-"
        yield near, {"call": job.call, "wanted": WAITS[function], "seen": seen}


@check(after=(test_gives_up, test_worker_stays_free))
def test_constant_waits(lab):
    """unreliable_task plans each retry 2 s ahead."""
    for near, said in planned(lab, "unreliable_task"):
        assert lab.fact(near, "waits", **said)


@check(after=(test_gives_up, test_worker_stays_free))
def test_doubling_waits(lab):
    """exponential_backoff_task plans its retries exactly 1, 2, 4, 8, 16 s ahead."""
    for near, said in planned(lab, "exponential_backoff_task"):
        assert lab.fact(near, "waits", **said), hint("doubling")


@check(after=(test_gives_up, test_worker_stays_free))
def test_custom_waits(lab):
    """custom_retry_task plans its retries 10, 20, 30 s ahead."""
    for near, said in planned(lab, "custom_retry_task"):
        assert lab.fact(near, "waits", **said)


def ceiling(attempt):
    """Return the longest wait that fetch_url may draw after its failed attempt of this number."""
    return min(8, 2 ** (attempt - 1))


def drawn(lab):
    """Return (attempt, wait) pairs of fetch_url, read once a lab.

    Eight calls, each to a host of its own, fail four times: no host fails more often than that in
    a row. The wait before the fifth retry comes from sixteen calls whose message says that they
    were tried again four times already, so that one failure shows it. A task that counts in a way
    of its own takes them for new calls and waits less, which is right as well.
    """
    return lab.once("drawn", lambda: draw(lab))


def draw(lab):
    sites = [f"site{n}" for n in range(1, 9)]
    with lab.tapped():
        jobs = [Job(lab, "fetch_url", fail(503, times=4), site=site) for site in sites]
        finish(lab, jobs)
        late = [Job(lab, "fetch_url", fail(), site=site, retries=4) for site in sites * 2]
        finish(lab, late)
    pairs = [(n, wait) for job in jobs for n, wait in enumerate(job.trail.waits, 1)]
    return pairs + [(5, wait) for job in late for wait in job.trail.waits]


@check(after=(test_recovers, test_worker_stays_free))
def test_backoff_limits(lab):
    """fetch_url waits at most 1, 2, 4, 8, 8 s before its retries."""
    # Drawn from 0 to 16 s, sixteen fifth waits all stay below 8 s once in 26000 tries.
    pairs = drawn(lab)
    assert lab.fact(len(pairs) == 48, "waits_read", seen=len(pairs), wanted=48)
    for attempt, wait in pairs:
        most = ceiling(attempt)
        said = {"attempt": attempt, "most": most, "seen": wait}
        assert lab.fact(wait.within(0, most), "wait_limit", **said), hint(
            "default" if attempt < 5 else "cap"
        )


@check(after=test_backoff_limits)
def test_jitter_spread(lab):
    """fetch_url's waits are drawn from the whole range: from its lower half and its upper."""
    # A right answer fails when none of 48 draws is in one half. Whole seconds from 0 to 1, 2, 4
    # and 8 miss a half with 1/2, 2/3, 3/5 and 5/9: 8 calls of 4 waits and 16 fifth waits come to
    # 2 * (1/2 * 2/3 * 3/5 * 5/9) ** 8 * (5/9) ** 16 = 4e-12; fractions do better, and without the
    # fifth waits it is 5e-8. What is not drawn, or from one half only, never passes: the bounds of
    # a wait are certain.
    pairs = [(wait, ceiling(attempt) / 2) for attempt, wait in drawn(lab)]
    for half, hit in (
        ("lower", any(wait.high < middle for wait, middle in pairs)),
        ("upper", any(wait.low > middle for wait, middle in pairs)),
    ):
        seen = ", ".join(str(wait) for wait, middle in pairs if middle == 4)
        assert lab.fact(hit, "both_halves", half=half, seen=seen), hint(half)


@check(after=(test_recovers, test_worker_stays_free))
def test_retry_after(lab):
    """With Retry-After in seconds, on 429 and on 503, the wait is that much and a backoff more."""
    rows = [(429, lab.rng.randint(12, 25), 0), (503, lab.rng.randint(12, 25), 0), (429, 4, 0)]
    rows += [(503, lab.rng.randint(12, 25), 1), (429, lab.rng.randint(12, 25), 1)]
    with lab.tapped():
        jobs = []
        for site, (code, seconds, before) in enumerate(rows, 1):
            steps = [fail(502, times=before)] if before else []
            jobs.append(
                Job(lab, "fetch_url", *steps, retry_after(seconds, code), site=f"site{site}")
            )
        finish(lab, jobs)

    for job, (code, seconds, before) in zip(jobs, rows, strict=True):
        waits = job.trail.waits[before : before + 1]
        most = seconds + ceiling(before + 1)
        right = bool(waits) and waits[0].within(seconds, most, 1.1)
        said = {"code": code, "header": seconds, "least": seconds, "most": most}
        seen = waits[0] if waits else "-"
        mistake = "not_429" if code == 429 and waits == [] else "default"
        assert lab.fact(right, "retry_after", **said, seen=seen), hint(mistake)


@check(after=test_retry_after)
def test_retry_after_dates(lab):
    """Retry-After may be an HTTP date; one that is past, or makes no sense, is ignored."""
    now = datetime.now(UTC)
    ahead = [now + timedelta(seconds=lab.rng.randint(14, 28)) for _ in range(2)]
    past, odd = (
        now - timedelta(seconds=3600),
        ["soon", "12 parsecs", "Fri, 99 Foo 2099 00:00:00 GMT"],
    )
    whens = [*ahead, past, *odd]
    with lab.tapped():
        jobs = [
            Job(lab, "fetch_url", retry_after(when, code), site=f"site{site}")
            for site, (when, code) in enumerate(zip(whens, [429, 503] * 3, strict=True), 1)
        ]
        finish(lab, jobs)

    for job, when in zip(jobs, whens, strict=True):
        least = max(0.0, (when - now).total_seconds()) if isinstance(when, datetime) else 0.0
        # The header is read some time after it was made; a wait till the date is shorter by that.
        waits, passed = job.trail.waits[:1], job.requests[0].at - now.timestamp()
        wanted = max(0.0, least - passed)
        right = bool(waits) and waits[0].within(wanted, wanted + 1, 1.1 if least else 0.5)
        header = format_datetime(when, usegmt=True) if isinstance(when, datetime) else when
        said = {"code": job.requests[0].answered, "header": header, "least": f"{wanted:.0f}"}
        said |= {"most": f"{wanted + 1:.0f}", "seen": waits[0] if waits else job.ending}
        mistake = "date" if least else "ignored"
        assert lab.fact(right, "retry_after", **said), hint(mistake)


# ------------------------------------------------- what takes its time, or workers of its own


@check(lane="patience", after=test_healthy_service)
def test_request_timeout(lab):
    """No request of fetch_url waits more than 10 s without a byte; such a silence is retried."""
    job = Job(lab, "fetch_url", delay(40, ok()), site="site1")

    # One that was started late gets its ten seconds all the same.
    lab.until(lambda: job.requests, within=PATIENCE)
    lab.until(lambda: job.requests and job.requests[0].ended, within=16)
    first = job.requests[0] if job.requests else None
    left = first is not None and first.answered == "hung up"
    said = {"call": job.call, "seconds": 16, "seen": first.answered if first else "-"}
    assert lab.fact(left, "hung_up", **said), hint("no_timeout")
    finish(lab, [job])
    assert job.call == returns(job.right), hint("not_retried")


@check(lane="workers", after=test_worker_stays_free)
def test_shutdown_keeps_retries(lab):
    """A worker stopped by SIGTERM while retries wait loses none of them and doubles none."""
    lab.restart_worker(speed=1)
    with lab.tapped():
        jobs = [Job(lab, "custom_retry_task", fail()) for _ in range(4)]
        jobs += [Job(lab, "fetch_url", retry_after(20), site=f"site{n}") for n in (1, 2)]
        lab.until(lambda: all(job.trail.retries for job in jobs), within=8)
        # Behind them in the queue: when it is answered, the worker holds all of the retries.
        finish(lab, [Job(lab, "custom_retry_task")])

    # A warm shutdown takes two seconds; on a machine that is busy with other things, many more.
    ended = lab.stop_worker(within=40) is not None
    assert lab.fact(ended, "worker_ends", seconds=40)
    lab.restart_worker(speed=lab.exercise.speed)
    finish(lab, jobs)
    finish(lab, [Job(lab, "custom_retry_task")])

    for job in jobs:
        seen = len(job.requests)
        said = {"call": job.call, "seen": seen, "ending": job.ending}
        kept = seen == 2 and job.call.reply is not None and job.call.reply.succeeded
        assert lab.fact(kept, "kept_once", **said), hint("default" if seen < 2 else "doubled")


BATCH = 28
# Three failures a host, one more that was held back: no circuit breaker opens.
SITES = 10
SHARP = 24


@check(lane="workers", after=(test_backoff_limits, test_worker_stays_free))
def test_jitter_differs(lab):
    """The draws differ: between URLs, between the processes of a worker, and after a restart."""
    # First waits of 0 to 1 s, in the order in which one process drew them. Whole seconds are the
    # two sides of a coin: two rows of 24 at least are equal by luck once in 2 ** 24 tries. Three
    # shifts of four pairs of rows, and the URLs, make thirteen comparisons: a right answer fails
    # less than once in a million tries.
    lab.restart_worker(speed=1)
    keys = [word(lab) for _ in range(BATCH)]
    one, other = lab.worker.pool[:2]
    first, stuck = batch(lab, keys, one)
    second, _ = batch(lab, keys, other)
    lab.restart_worker(speed=1)
    third, _ = batch(lab, keys, lab.worker.pool[0])

    by_url = [(first[key], second[key]) for key in keys if key in first and key in second]
    first, stuck, second, third = (list(r.values()) for r in (first, stuck, second, third))
    if constant(first + second + third):
        return  # It waits just as long as Retry-After says: that is allowed, and shows no draw.
    said = {"seen": ", ".join(str(wait) for wait in first[:8])}
    assert lab.fact(not alike(by_url), "other_draws", **said), hint("by_url")
    # What the still process had been given it may draw before the next row or in the midst of it.
    rows = [stuck[:known] + second for known in range(min(len(stuck), 2) + 1)]
    same = any(shifted(first, row) for row in rows)
    assert lab.fact(not same, "other_draws", **said), hint("two_processes")
    assert lab.fact(not shifted(first, third), "other_draws", **said), hint("two_starts")


def batch(lab, keys, still):
    """Have each URL fail once while one process stands still.

    Retry-After keeps the retries away, so that nothing but these calls draws. Returns the waits
    that the other process planned, by key in the order of its draws, and those of the calls that
    the still one had been given: it draws them first when it goes on.
    """
    with lab.tapped():
        with lab.frozen([still]):
            jobs = [
                Job(lab, "fetch_url", retry_after(60), site=f"site{place % SITES + 1}", key=key)
                for place, key in enumerate(keys)
            ]
            lab.until(lambda: sum(bool(job.trail.waits) for job in jobs) >= BATCH - 2, within=30)
            begun = [job for job in jobs if job.requests]
            # A good answer from each host: no circuit breaker opens for the next batch.
            good = [Job(lab, "fetch_url", site=f"site{n}") for n in range(1, SITES + 1)]
            lab.until(lambda: sum(bool(job.requests) for job in good) >= len(good) - 1)
        finish(lab, good)
        lab.until(lambda: all(job.trail.waits for job in jobs))
    read = sum(bool(job.trail.waits) for job in jobs)
    assert lab.fact(read == len(jobs), "waits_read", seen=read, wanted=len(jobs))
    begun.sort(key=lambda job: job.requests[0].began)
    rows = begun, [job for job in jobs if job not in begun]
    return tuple({job.key: job.trail.waits[0] for job in row} for row in rows)


def shifted(a, b):
    """Whether the rows may be the same draws, one of them a draw behind the other."""
    return any(alike(zip(x, y, strict=False)) for x, y in ((a, b), (a[1:], b), (a, b[1:])))


def constant(waits):
    """Whether all of the waits may be the same."""
    return all(wait.within(waits[0].low, waits[0].high, 0.02) for wait in waits)


def alike(pairs):
    """Whether all of the pairs of waits may be equal.

    Raises:
        RuntimeError: too few waits are known well enough to say; the lab's fault, not a verdict.
    """
    sharp = [(a, b) for a, b in pairs if max(a.high - a.low, b.high - b.low) < 0.4]
    if len(sharp) < SHARP:
        raise RuntimeError(f"only {len(sharp)} waits were read sharply: the machine is too busy")
    return all(a.within(b.low, b.high, 0.02) for a, b in sharp)
