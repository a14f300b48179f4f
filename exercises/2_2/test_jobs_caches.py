"""What refresh_cache of exercise 2_2 leaves in Redis.

The other jobs are in test_jobs_cleanup.py, test_jobs_health.py and test_jobs_reports.py. Expected
figures are counted in the checks, from the rows that were drawn.
"""

from __future__ import annotations

import random
import time
from datetime import timedelta

from grader import ops
from grader.check import check, hint

CACHES = ("user_counts", "feature_usage", "daily_revenue", "error_counts", "top_users")
PATIENT = 15.0


def many(lab, times_over):
    """Fill the database with rows of the last forty days; the more of them, the more users.

    Whichever of these days a cache is about, by whichever clock, it has so many times the rows, and
    so many times the users, each with another feature and for more money.
    """
    rng, now, draw = lab.rng, ops.before_now(), random.Random(f"{lab.seed} caches")
    rows = []
    for half_day in range(80):
        at = now - timedelta(hours=12 * half_day, minutes=draw.randint(5, 715))
        user = draw.randint(1, 9) * 10
        rows += [(at, user + n) for n in range(times_over)]
    # Many more of them lately, for who looks at an hour or at a local day, however young that is.
    morning = now.astimezone(ops.SHANGHAI).replace(hour=0, minute=0, second=0)
    today, count = min(now - morning, timedelta(hours=1)), 5 * times_over**2
    rows += [(now - today * n / (count + 1), rng.randint(1, 9) * 10) for n in range(1, count + 1)]
    rows = [(user * times_over, user // 10 + user, ops.written(rng, at)) for at, user in rows]
    ops.database(
        lab,
        users=[(text,) for _, _, text in rows],
        errors=[(text,) for _, _, text in rows],
        transactions=[(user, 5.25 + times_over, text) for user, _, text in rows],
        activity=[(user, ops.FEATURES[number % 4], text, 2.0) for user, number, text in rows],
    )


def refreshed(lab):
    """Refresh the caches; return the call, and each cache's text and time to live.

    That is a pair of seconds: what is left of it, and how long ago it began, at most.
    """
    with lab.redis["ops"].client() as client:
        client.delete(*(f"cache:{name}" for name in CACHES))
        began = time.monotonic()
        call = lab.call("refresh_cache", within=PATIENT)
        keys = {name: f"cache:{name}" for name in CACHES}
        lives = {name: (client.pttl(key), time.monotonic() - began) for name, key in keys.items()}
        kinds = {name: client.type(key) for name, key in keys.items()}
        texts = {n: client.get(k) if kinds[n] == b"string" else None for n, k in keys.items()}
        return call, texts, {n: (left / 1000, passed) for n, (left, passed) in lives.items()}


@check
def test_caches(lab):
    """refresh_cache writes five JSON texts, computed from the data, and counts their items."""
    assert ops.registered(lab, "refresh_cache"), hint("named")
    many(lab, 1)
    call, before, _ = refreshed(lab)
    assert ops.succeeded(lab, call)
    for name in CACHES:
        said = {"what": f"cache:{name}", "seen": repr(before[name])[:200]}
        assert lab.fact(ops.document(before[name]) is not None, "cache_json", **said)
    counts = ops.result(call).get("refreshed")
    for name in CACHES:
        value = ops.document(before[name])
        seen = counts.get(name) if isinstance(counts, dict) else None
        good = isinstance(seen, int) and (not isinstance(value, list | dict) or seen == len(value))
        wanted = len(value) if isinstance(value, list | dict) else "int"
        said = {"what": f'refreshed["{name}"]', "wanted": wanted, "seen": repr(seen)}
        assert lab.fact(good, "value", call=call, now=ops.before_now().isoformat(), **said)
    total, seen = (
        sum(counts[name] for name in CACHES),
        ops.result(call).get("total_items_refreshed"),
    )
    assert ops.is_value(lab, call, "total_items_refreshed", seen, total, ops.before_now())

    many(lab, 3)
    call, after, _ = refreshed(lab)
    assert ops.succeeded(lab, call)
    for name in CACHES:
        changed = after[name] != before[name]
        assert lab.fact(changed, "cache_data", what=f"cache:{name}"), hint("not_computed")


@check(after=test_caches)
def test_caches_expire(lab):
    """Each cache has a time to live of 900 to 3600 seconds."""
    many(lab, 2)
    call, _, lives = refreshed(lab)
    assert ops.succeeded(lab, call)
    for name, (left, passed) in lives.items():
        for_ever = left == -0.001  # what Redis says of a key without one
        said = {"what": f"cache:{name}", "seen": -1 if for_ever else f"{left:.3f}"}
        mistake = "for_ever" if for_ever else "default"
        assert lab.fact(900 - passed <= left <= 3600, "cache_life", **said), hint(mistake)
