"""What keeps a service from being called: an open circuit, or a rate."""

import os

from .saga import memory

LIMIT, PAUSE = 5, 10


def may_call(service):
    r = memory()
    if int(r.get(f"shop:fails:{service}") or 0) < LIMIT:
        return True
    return bool(r.set(f"shop:open:{service}", "1", nx=True, ex=PAUSE))


def tell(service, answered):
    r = memory()
    if answered:
        r.delete(f"shop:fails:{service}", f"shop:open:{service}")
    elif r.incr(f"shop:fails:{service}") >= LIMIT:
        r.set(f"shop:open:{service}", "1", ex=PAUSE)


def in_turn(service):
    rate = float(os.environ.get("PAYMENT_RATE_LIMIT") or 0)
    if service != "payment_service" or not rate:
        return True
    return bool(memory().set("shop:turn", "1", nx=True, px=int(1000 / rate) + 1))
