"""The extension challenges of exercise 1_3: circuit breaker, retry budget, statistics."""

from __future__ import annotations

from grader.check import check, hint
from grader.expect import returns, succeeds
from grader.services.http import delay, fail, ok

OPENS_AFTER = 5
OPEN_SECONDS = 30
# One more call than are needed, and one that the process that stands still may have been given.
CALLS = OPENS_AFTER + 2
TASKS = ("unreliable_task", "fetch_url", "exponential_backoff_task", "custom_retry_task")
PATIENCE = 10


def word(lab):
    """Draw a key."""
    return "".join(lab.rng.choices("bcdfghjkmnpqrstvwxz", k=10))


def fetch(lab, site, key=""):
    """Have a page of a host fetched."""
    return lab.send("fetch_url", lab.http[site].address(key or word(lab)), within=PATIENCE)


def put_offs(lab, call):
    """Return the messages that put this call off, before it was tried at all."""
    mine = [m for m in lab.history.messages if m.id == call.id and not m.retries]
    return [m for m in mine if m.planned_for]


@check(lane="circuit")
def test_circuit_opens(lab):
    """Challenge 1: after 5 failures in a row a host is left alone for 30 s, by every process."""
    lab.restart_worker(speed=1)
    for site in ("site1", "site3"):
        lab.http[site].script("*", then=fail())
    lab.http["site2"].script("*", then=ok())
    first = lab.finish([fetch(lab, "site2")])[0]
    assert first == succeeds()
    one, other = lab.worker.processes(2)
    with lab.tapped():
        # One process makes the five failures, so that it is the other that has to know of them.
        with lab.frozen([one]):
            calls = [fetch(lab, site) for _ in range(CALLS) for site in ("site1", "site3")]
            # The fifth answer has come before its failure is noted, which may be the last that the
            # attempt does: the process has to go on to its next call.
            lab.until(lambda: all(went_on(lab, calls[n::2], n) for n in range(2)), within=20)
        with lab.frozen([other]):
            late = [fetch(lab, "site1"), fetch(lab, "site1")]
            lab.until(
                lambda: any(put_offs(lab, call) for call in late) or len(requests(lab)[0]) > 5
            )
        free = fetch(lab, "site2")
        lab.finish([free])
        lab.until(lambda: all(put_offs(lab, call) for call in late))
    lab.once("circuit", lambda: [*calls, *late])

    for row in requests(lab):
        said = {"opens": OPENS_AFTER, "seen": len(row)}
        assert lab.fact(len(row) == OPENS_AFTER, "left_alone", **said), hint("not_left_alone")
    for call in late:
        waits = [m.planned_for - m.at for m in put_offs(lab, call)]
        right = bool(waits) and OPEN_SECONDS - 12 < waits[0] <= OPEN_SECONDS + 1
        seen = ", ".join(f"{wait:.1f} s" for wait in waits) or "-"
        assert lab.fact(right, "put_off", call=call, seen=seen), hint("retry_used")
    assert free == succeeds(), hint("other_host")
    lab.dirty = False  # The next check goes on where this one ends.


def went_on(lab, calls, host):
    """Whether a call was handled after five had failed: the host asked all the same, or put off."""
    return len(requests(lab)[host]) > OPENS_AFTER or any(put_offs(lab, call) for call in calls)


def requests(lab):
    """Return the requests to each of the two hosts that fail."""
    return [lab.http[site].requests() for site in ("site1", "site3")]


@check(lane="circuit", after=test_circuit_opens)
def test_circuit_tries(lab):
    """Challenge 1: after the 30 s one trial request closes the circuit, or opens it again."""
    # The trial's answer is slow, so that whoever else would ask has time to.
    lab.http["site1"].script("*", then=delay(1.5, ok()))
    lab.http["site3"].script("*", then=delay(1.5, fail()))

    def tried():
        return all(len(row) > OPENS_AFTER and row[OPENS_AFTER].ended for row in requests(lab))

    with lab.tapped():
        lab.until(tried, within=OPEN_SECONDS + 15)
        healed, bad = (row[OPENS_AFTER:] for row in requests(lab))
        for row in (healed, bad):
            assert lab.fact(row and row[0].ended, "trial", seen=len(row)), hint("no_trial")
            beside = [r for r in row[1:] if r.began < row[0].ended]
            assert lab.fact(not beside, "one_trial", seen=1 + len(beside)), hint("many_trials")
    # What was put off once more may be due in 30 s: from here on that is made shorter.
    assert lab.fact(lab.stop_worker() is not None, "circuit_worker_ends")
    lab.http["site1"].script("*", then=ok())
    lab.restart_worker(speed=lab.exercise.speed)
    site1 = lab.http["site1"].url
    calls = [c for c in lab.once("circuit", list) if c.args[0].startswith(site1)]
    with lab.tapped():
        again = fetch(lab, "site3")
        lab.until(lambda: put_offs(lab, again))
    lab.finish(calls)

    for call in calls:
        assert call == succeeds(), hint("shut")
    # A busy machine may have taken so long that the next trial was due.
    seen = sum(r.began < bad[0].ended + OPEN_SECONDS - 2 for r in requests(lab)[1])
    assert lab.fact(seen == OPENS_AFTER + 1, "opened_again", seen=seen), hint("reopen")


QUIET, PAIRS = 60, 60


@check(lane="budget")
def test_retry_budget(lab):
    """Challenge 2: from 50 requests a minute on, at most 20 percent of a host's are retries."""
    few = [word(lab) for _ in range(4)]
    for site in ("site1", "site2"):
        lab.http[site].script("*", then=ok())
        lab.http[site].script("bad-*", fail(), then=ok())
    calls = [fetch(lab, "site2", f"bad-{key}") for key in few]
    lab.finish(calls)
    for call in calls:
        # A host that is asked seldom has no budget to keep to.
        assert call == succeeds(), hint("too_early")

    lab.finish([fetch(lab, "site1") for _ in range(QUIET)])
    bad = []
    for _ in range(PAIRS):
        # A good answer between two failures: no circuit breaker opens.
        bad.append(fetch(lab, "site1", f"bad-{word(lab)}"))
        fetch(lab, "site1")
    lab.finish(bad)
    seen = len(lab.http["site1"].requests())
    retried = sum(len(lab.http["site1"].requests(key_of(call))) > 1 for call in bad)
    percent = f"{100 * retried / max(seen, 1):.0f}"
    share = {"requests": seen, "retries": retried, "percent": percent}
    assert lab.fact(seen >= QUIET + PAIRS, "budget_used", **share), hint("none")
    assert lab.fact(retried <= 0.2 * seen + 2, "budget", **share), hint("spent")
    assert lab.fact(retried >= 0.05 * seen, "budget_used", **share), hint("none")
    for call in bad:
        reply = call.reply
        if reply and reply.failed:
            said = {"call": call, "seen": f"{reply.error_type}: {reply.error_message[:90]}"}
            assert lab.fact("503" in reply.error_message, "budget_error", **said)
        else:
            assert lab.fact(reply is not None, "budget_ends", call=call)


def key_of(call):
    """Return the key of the page that a call fetched."""
    return call.args[0].rpartition("/")[2]


@check(lane="budget")
def test_statistics(lab):
    """Challenge 3: retry_stats() counts how the calls of each task ended, over all processes."""
    missing = lab.unregistered(["retry_stats"])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    before, wanted = counts(lab), {}
    flaky, rows = lab.http["flaky"], []
    for ending, steps, times in (
        ("first_try", [], 5),
        ("after_retries", [fail()], 4),
        ("exhausted", [fail(times=9)], 3),
        ("permanent", [fail(404)], 2),
    ):
        for _ in range(times):
            flaky.script(key := word(lab), *steps, then=ok())
            rows.append(("unreliable_task", key))
        wanted["unreliable_task", ending] = times
    flaky.script(key := word(lab), then=ok())
    flaky.script(lost := word(lab), fail(times=9))
    rows += [("exponential_backoff_task", [1], key), ("exponential_backoff_task", ["x"], key)]
    rows += [("custom_retry_task", {"key": k}) for k in (key, lost)]
    wanted |= {("exponential_backoff_task", e): 1 for e in ("first_try", "permanent")}
    wanted |= {("custom_retry_task", e): 1 for e in ("first_try", "exhausted")}
    for ending, steps in (
        ("first_try", []),
        ("after_retries", [fail()]),
        ("permanent", [fail(404)]),
    ):
        lab.http["site3"].script(key := word(lab), *steps, then=ok())
        rows.append(("fetch_url", lab.http["site3"].address(key)))
        wanted["fetch_url", ending] = 1
    # Two processes work on these, and both must be counted.
    lab.finish(lab.send_all(rows, within=PATIENCE))

    def grown():
        after = counts(lab)
        return {key: n - before.get(key, 0) for key, n in after.items() if n > before.get(key, 0)}

    lab.until(lambda: grown() == wanted, within=3)
    seen = grown()
    assert lab.fact(seen == wanted, "statistics", wanted=plain(wanted), seen=plain(seen))
    for _ in range(4):  # whichever process answers
        assert lab.fact(
            grown() == seen, "shared_statistics", wanted=plain(seen), seen=plain(grown())
        )


ENDINGS = ("first_try", "after_retries", "exhausted", "permanent")


def counts(lab):
    """Return (task, ending) -> number as retry_stats() tells it; a task may go by its full name."""
    call = lab.call("retry_stats")
    told = call.reply.result if call.reply and call.reply.succeeded else None
    shaped = isinstance(told, dict) and all(isinstance(row, dict) for row in told.values())
    assert shaped or call == returns({task: dict.fromkeys(ENDINGS, 0) for task in TASKS[:1]})
    return {
        (task.rpartition(".")[2], ending): row.get(ending) or 0
        for task, row in told.items()
        for ending in ENDINGS
        if task.rpartition(".")[2] in TASKS  # it may count itself, and does so at each look
    }


def plain(counted):
    """Say counts in one line."""
    return ", ".join(f"{task}.{ending}: {n}" for (task, ending), n in sorted(counted.items()))
