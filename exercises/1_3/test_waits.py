"""How long the tasks of exercise 1_3 wait: the messages of their retries say."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from grader.check import check, hint, named
from grader.job import JOBS, PAGE, Job, finish, spent, unheard
from grader.services.http import fail, retry_after
from grader.trail import answered_at, constant

WAITS = {JOBS[0]: [2, 2, 2], JOBS[1]: [1, 2, 4, 8, 16], JOBS[2]: [10, 20, 30]}
# In the other files.
RECOVERS, GIVES_UP, STAYS_FREE = named("recovers"), named("gives_up"), named("worker_stays_free")


def planned(lab, function):
    """Hold the planned waits of the three exhausted calls of a task against the contract.

    Three calls with five waits each: drawn from 0 to the right wait in whole seconds, they would
    all be right by luck once in 4590 ** 3, or 10 ** 11, tries. A right answer fails only where the
    clocks of one machine differ by half a second. A fourth call has lost its connections; whether
    these are tried again at all is a claim of its own.
    """
    lost = [job for job in unheard(lab) if job.trail.retries]
    for job in [job for job in [*spent(lab), *lost] if job.function == function]:
        waits = job.trail.waits
        near = len(waits) == len(WAITS[function])
        near = near and all(w.near(n) for w, n in zip(waits, WAITS[function], strict=True))
        seen = ", ".join(map(str, waits)) or "-"
        yield near, {"call": job.call, "wanted": WAITS[function], "seen": seen}


@check(after=(GIVES_UP, STAYS_FREE))
def test_constant_waits(lab):
    """unreliable_task plans each retry 2 s ahead."""
    for near, said in planned(lab, "unreliable_task"):
        assert lab.fact(near, "waits", **said)


@check(after=(GIVES_UP, STAYS_FREE))
def test_doubling_waits(lab):
    """exponential_backoff_task plans its retries exactly 1, 2, 4, 8, 16 s ahead."""
    for near, said in planned(lab, "exponential_backoff_task"):
        assert lab.fact(near, "waits", **said), hint("doubling")


@check(after=(GIVES_UP, STAYS_FREE))
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
    a row. Further first waits come from calls that fail once, and those before the fifth retry from
    calls whose message says that they were tried again four times already. A task that counts in a
    way of its own takes these for new calls and waits less, which is right as well.
    """
    return lab.once("drawn", lambda: draw(lab))


def draw(lab):
    sites = [f"site{n}" for n in range(11, 19)]
    with lab.tapped():
        jobs = [Job(lab, "fetch_url", fail(503, times=4), site=site) for site in sites]
        finish(lab, jobs)
        once = finish(lab, [Job(lab, "fetch_url", fail(), site=site) for site in sites * 3])
        late = [
            job
            for _ in range(2)
            for job in finish(
                lab, [Job(lab, "fetch_url", fail(), site=site, retries=4) for site in sites * 4]
            )
        ]
    pairs = [(n, wait) for job in [*jobs, *once] for n, wait in enumerate(job.trail.waits, 1)]
    return pairs + [(5, wait) for job in late for wait in job.trail.waits]


@check(after=(RECOVERS, STAYS_FREE))
def test_backoff_limits(lab):
    """fetch_url waits at most 1, 2, 4, 8, 8 s before its retries."""
    # Drawn from 0 to 10 s, 64 fifth waits all stay below 8.5 s once in 300 000 tries; drawn from
    # 0 to 2 s, 32 first ones all stay below 1.5 s once in 400 000 (whole seconds).
    pairs, wanted = drawn(lab), 8 * 4 + 24 + 64
    assert lab.fact(len(pairs) == wanted, "waits_read", seen=len(pairs), wanted=wanted)
    # No longer are the waits after a connection error, if there are any.
    lost = [job.trail.waits for job in unheard(lab) if job.function == PAGE]
    pairs = pairs + [pair for waits in lost for pair in enumerate(waits, 1)]
    for attempt, wait in pairs:
        most = ceiling(attempt)
        said = {"attempt": attempt, "most": most, "seen": wait}
        assert lab.fact(wait.within(0, most), "wait_limit", **said), hint(
            "default" if attempt < 5 else "cap"
        )


@check(after=test_backoff_limits)
def test_jitter_spread(lab):
    """fetch_url's waits are drawn from the whole range: from its lower half and its upper."""
    # Whole seconds from 0 to 1, 2, 4 and 8 miss a half with 1/2, 2/3, 3/5 and 5/9; fractions do
    # better. A right answer fails when all of the 32 first waits miss one, once in 10 ** 9 tries,
    # or all waits together, which is less likely still, also where those before the fifth retry
    # are drawn like first ones. What is drawn from one half only, or is a second at least, never
    # passes: the bounds of a wait are certain.
    for most, last in ((1, 1), (8, 5)):
        waits = [(wait, ceiling(n) / 2) for n, wait in drawn(lab) if n <= last]
        seen = ", ".join(str(wait) for wait, middle in waits if middle == most / 2)
        for half, hit in (
            ("lower", any(wait.high < middle for wait, middle in waits)),
            ("upper", any(wait.low > middle for wait, middle in waits)),
        ):
            said = {"half": half, "most": most, "seen": seen}
            assert lab.fact(hit, "both_halves", **said), hint(half)
    # Smaller draws may have hit both halves where those before the fifth retry are none.
    late = [wait for n, wait in drawn(lab) if n == 5]
    seen = ", ".join(str(wait) for wait in late[:8])
    assert lab.fact(not constant(late), "late_draws", seen=seen), hint("late")


@check(after=(RECOVERS, STAYS_FREE))
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
    now = datetime.now(UTC).replace(microsecond=0)  # which an HTTP date does not have
    ahead = [now + timedelta(seconds=lab.rng.randint(14, 28)) for _ in range(2)]
    past = now - timedelta(seconds=3600)
    odd = ["soon", "12 parsecs", "-30", "Fri, 99 Foo 2099 00:00:00 GMT"]
    whens = [*ahead, past, *odd]
    codes = itertools.cycle([429, 503])
    with lab.tapped():
        jobs = [
            Job(lab, "fetch_url", retry_after(when, code), site=f"site{site}")
            for site, (when, code) in enumerate(zip(whens, codes, strict=False), 1)
        ]
        finish(lab, jobs)

    for job, when in zip(jobs, whens, strict=True):
        least = max(0.0, (when - now).total_seconds()) if isinstance(when, datetime) else 0.0
        # The header is read some time after it was made; a wait till the date is shorter by that.
        waits, passed = job.trail.waits[:1], answered_at(job.requests[0]) - now.timestamp()
        wanted = max(0.0, least - passed)
        right = bool(waits) and waits[0].within(wanted, wanted + 1, 1.1 if least else 0.5)
        header = format_datetime(when, usegmt=True) if isinstance(when, datetime) else when
        said = {"code": job.requests[0].answered, "header": header, "least": f"{wanted:.0f}"}
        said |= {"most": f"{wanted + 1:.0f}", "seen": waits[0] if waits else job.ending}
        mistake = "date" if least else "ignored"
        assert lab.fact(right, "retry_after", **said), hint(mistake)
