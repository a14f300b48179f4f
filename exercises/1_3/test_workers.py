"""Checks of exercise 1_3 that start workers of their own, or wait for a silent server."""

from __future__ import annotations

import itertools
import math

from grader.check import check, hint, named
from grader.expect import returns
from grader.job import JOBS, LIMITS, PAGE, PATIENCE, Job, finish, retried, word
from grader.services.http import delay, fail, ok, refuse, retry_after, stall
from grader.trail import constant

HEALTHY, BACKOFF = named("healthy_service"), named("backoff_limits")  # in the other files


@check(lane="workers", after=HEALTHY)
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


# A client that gives up after 10 s, on a machine that is busy with other things.
LONGEST, SILENCE = 13, 40


@check(lane="patience", after=HEALTHY)
def test_request_timeout(lab):
    """No request of fetch_url waits more than 10 s without a byte; each task retries a timeout."""
    # One server says nothing at all, the other falls silent after the head and a few bytes. A page
    # that comes byte by byte is not asked for: a client may well have a limit for the whole of it.
    body = stall(ok("y" * 400), 60, SILENCE)
    lab.restart_worker(concurrency=2 + len(JOBS))  # so that all of them wait at the same time
    lost = finish(lab, [Job(lab, function, refuse()) for function in LIMITS])
    pages = [Job(lab, PAGE, delay(SILENCE, ok())), Job(lab, PAGE, body, site="site2")]
    jobs = [*pages, *(Job(lab, function, delay(SILENCE, ok())) for function in JOBS)]

    # One that was started late gets its ten seconds all the same.
    lab.until(lambda: all(job.requests for job in jobs), within=3 * PATIENCE)
    lab.until(lambda: all(waited(job) < math.inf for job in jobs), within=LONGEST + 1)
    for job, mistake in zip(pages, ("no_timeout", "in_the_body"), strict=True):
        seconds = waited(job)
        seen = f"{seconds:.1f} s" if seconds < math.inf else f"> {LONGEST} s"
        said = {"call": job.call, "seen": seen, "longest": LONGEST}
        assert lab.fact(seconds <= LONGEST, "hung_up", **said), hint(mistake)
    # The other tasks may wait as long as they like: what they do after a timeout is known of those
    # that had one. Who tries no lost connection again at all has lost points for that.
    patient = {job.function for job in lost if job.call.reply and job.call.reply.succeeded}
    jobs = [job for job in jobs if waited(job) < math.inf and job.function in patient]
    for job in finish(lab, jobs):
        assert job.call == returns(job.right), hint("not_retried")


def waited(job):
    """Return how long the first request was waited on, by the service's log; inf if it still is.

    Some clients close late what they have long given up: the next request tells it as well.
    """
    first, *more = job.requests or [None]
    ends = [request.began for request in more[:1]]
    if first and first.answered == "hung up":
        ends.append(first.ended)
    return min(ends) - first.began if ends else math.inf


# Retries come a hundred times later than planned: while a check looks, none of them does.
SLOW = 0.01


@check(lane="workers", after=test_worker_stays_free)
def test_shutdown_keeps_retries(lab):
    """A worker stopped by SIGTERM while retries wait loses none of them and doubles none."""
    lab.restart_worker(speed=SLOW)
    with lab.tapped():
        jobs = [Job(lab, "custom_retry_task", fail()) for _ in range(4)]
        jobs += [Job(lab, PAGE, retry_after(20), site=f"site{n}") for n in (1, 2)]
        lab.until(lambda: retried(lab, jobs) == len(jobs), within=8)
        # Behind them in the queue: when it is answered, the worker holds all of the retries.
        finish(lab, [Job(lab, "custom_retry_task")])

    # A warm shutdown takes two seconds; on a machine that is busy with other things, many more.
    ended = lab.stop_worker() is not None
    assert lab.fact(ended, "worker_ends", seconds=40)
    lab.restart_worker(speed=lab.exercise.speed)
    finish(lab, jobs)
    # These come behind all that the new worker was left, and wait for a minute of its time, one
    # step after the other: whatever was sent twice has been done twice when they end.
    finish(lab, [Job(lab, "custom_retry_task", fail(times=3)) for _ in range(3)])

    for job in jobs:
        seen = len(job.requests)
        said = {"call": job.call, "seen": seen, "ending": job.ending}
        kept = seen == 2 and job.call.reply is not None and job.call.reply.succeeded
        assert lab.fact(kept, "kept_once", **said), hint("default" if seen < 2 else "doubled")


BATCH = 28
# Three failures a host, one more that was held back: no circuit breaker opens.
SITES = 10
# A worker on RabbitMQ takes messages that wait ten at a time, and pauses for five seconds after
# each ten, unless it may hold more.
ROOMY = ("--prefetch-multiplier", "64")


@check(lane="workers", after=(BACKOFF, test_worker_stays_free))
def test_jitter_differs(lab):
    """The draws differ: between URLs, between the processes of a worker, and after a restart."""
    # The fourth waits of calls, from 0 to 8 s, in the order in which one process drew them. Two
    # draws look alike once in seven tries (whole seconds; all below Retry-After look the same). Ten
    # pairs are all alike once in 10 ** 8 tries, and three shifts of four pairs of rows, and the
    # URLs, make thirteen comparisons. A task that counts its retries in its own way draws 0 or 1:
    # of those it takes 24 pairs, which are alike once in 2 ** 24 tries.
    lab.restart_worker(speed=SLOW, options=ROOMY)
    keys = [word(lab) for _ in range(BATCH)]
    one, other = lab.worker.processes(2)
    first, stuck = batch(lab, keys, one)
    second, _ = batch(lab, keys, other)
    # The retries that still wait must not come back among the next draws: let them come now.
    lab.stop_worker()
    lab.restart_worker(speed=lab.exercise.speed, options=ROOMY)
    lab.finish(list(lab.history.calls))
    lab.restart_worker(speed=SLOW, options=ROOMY)
    third, _ = batch(lab, keys, lab.worker.processes(1)[0])

    by_url = [(first[key], second[key]) for key in keys if key in first and key in second]
    first, stuck, second, third = (list(r.values()) for r in (first, stuck, second, third))
    if constant(first + second + third):
        return  # It waits just as long as Retry-After says: that is allowed, and shows no draw.
    enough = 10 if any(wait.low > ASKED + 1.5 for wait in first + second) else 24
    said = {"seen": ", ".join(str(wait) for wait in first[:8])}
    assert lab.fact(not alike(by_url, enough), "other_draws", **said), hint("by_url")
    # What the still process had been given it may draw before the next row or in the midst of it.
    rows = [stuck[:known] + second for known in range(min(len(stuck), 2) + 1)]
    same = any(shifted(first, row, enough) for row in rows)
    assert lab.fact(not same, "other_draws", **said), hint("two_processes")
    same = shifted(first, third, enough)
    assert lab.fact(not same, "other_draws", **said), hint("two_starts")
    # Whoever seeds with the time in seconds draws one number for all calls of a second, a handful
    # in three rows. Of two draws in a row at least every second one is another, on average: of 81
    # pairs less than an eighth differ once in 10 ** 12 tries.
    pairs = sharp([pair for row in (first, second, third) for pair in itertools.pairwise(row)])
    changes = sum(not constant(pair) for pair in pairs)
    assert lab.fact(8 * changes >= len(pairs), "draws_in_a_row", **said), hint("in_a_row")


# Seconds of Retry-After: without a wait of a second at least, a retry could come back at once.
ASKED = 1


def batch(lab, keys, still):
    """Have each URL fail once while one process stands still, as after three retries.

    Retry-After and a slow worker keep the retries away, so that nothing but these calls draws.
    Returns the waits that the other process planned, by key in the order of its draws, and those of
    the calls that the still one had been given: it draws them first when it goes on.
    """
    with lab.tapped():
        with lab.frozen([still]):
            jobs = [
                Job(lab, PAGE, retry_after(ASKED), site=f"site{place}", key=key, retries=3)
                for place, key in zip(itertools.cycle(range(1, SITES + 1)), keys, strict=False)
            ]
            lab.until(lambda: retried(lab, jobs) >= BATCH - 2, within=30)
            begun = [job for job in jobs if job.requests]
            # A good answer from each host: no circuit breaker opens for the next batch.
            good = [Job(lab, PAGE, site=f"site{n}") for n in range(1, SITES + 1)]
            lab.until(lambda: sum(bool(job.requests) for job in good) >= len(good) - 1)
        finish(lab, good)
        lab.until(lambda: retried(lab, jobs) == len(jobs), within=15)
    read = sum(bool(job.trail.waits) for job in jobs)
    assert lab.fact(read == len(jobs), "waits_read", seen=read, wanted=len(jobs))
    begun.sort(key=lambda job: job.requests[0].began)
    rows = begun, [job for job in jobs if job not in begun]
    return tuple({job.key: job.trail.waits[0] for job in row} for row in rows)


def shifted(a, b, enough):
    """Whether the rows may be the same draws, one of them a draw behind the other."""
    pairs = ((a, b), (a[1:], b), (a, b[1:]))
    return any(alike(zip(x, y, strict=False), enough) for x, y in pairs)


def alike(pairs, enough):
    """Whether all of the pairs of waits may be equal.

    Raises:
        RuntimeError: too few waits are known well enough to say; the lab's fault, not a verdict.
    """
    known = sharp(pairs)
    if len(known) < enough:
        raise RuntimeError(f"only {len(known)} waits were read sharply: the machine is too busy")
    return all(constant(pair) for pair in known)


def sharp(pairs):
    """Return the pairs of waits that are known so well that other whole seconds can be told."""
    return [(a, b) for a, b in pairs if a.high - a.low + b.high - b.low < 0.9]
