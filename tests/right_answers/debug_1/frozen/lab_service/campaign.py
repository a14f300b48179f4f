"""Campaigns."""

from celery import chord, current_app, shared_task

from .people import enrich

DAY = 24 * 3600


@shared_task(name="memory_debug.points")
def points(user_id):
    """Return a customer's place: (points, user id)."""
    return enrich(user_id)["score"], user_id


@shared_task(name="memory_debug.ranking")
def ranking(places):
    """Return the customers, the one with the most points first."""
    return [user_id for _, user_id in sorted(places, reverse=True)]


def start_campaign(user_ids):
    """Start a chord that ranks customers; return the id of the ranking's result."""
    return chord(map(points.s, user_ids), ranking.s()).delay().id


def lasting_results(mend=False):
    """Find results that never expire; mend those, when asked, in one transaction for each key."""
    redis = current_app.backend.client
    lasting, mended = set(), 0
    cursor = None
    while cursor != 0:
        cursor, names = redis.scan(cursor or 0, match="celery-task*", count=300)
        for name in names:
            ours = name.startswith((b"celery-task-meta-", b"celery-taskset-meta-"))
            if ours and name not in lasting and redis.ttl(name) == -1:
                lasting.add(name)
    if mend:
        for name in lasting:
            mended += bool(redis.expire(name, DAY // 2, nx=True))
    return {"keys": [name.decode() for name in lasting], "mended": mended}
