"""The notebook of 3_1: an order's trip through six services. `lab tables` makes it anew."""

# %% title [markdown]
# # 3_1 Six services: an order's trip, and what a fault does to it
#
# One order, six services, each with a memory of its own. No transaction spans them. In this notebook you send orders on
# their way, lose an answer, run out of stock in the middle, and read in the services' own ledger what came of it.
#
# The app below is deliberately simple-minded: a chain of calls that tries again. The exercise `3_1` asks for a workflow
# that leaves no customer with a charge and no goods. Nothing here does that, and you will see what it costs.

# %%
from celery import chain

from grader.notebook import pictures
from grader.notebook.hands import hands_on
from grader.services.shop import Shop
from grader.services.shop.trouble import latency, lost

lab = hands_on("3_1")
shop = Shop()  # the six services of the exercise: real HTTP servers on loopback
shop.stock("tea", 3)
for name, url in shop.urls.items():
    print(f"{name:<14}{url}/docs")

# %% file="trolley.py"
import requests
from celery import Celery

app = Celery("trolley")
app.conf.task_default_queue = "trolley"


class Refused(Exception):
    """The service has said no; asking again will not help."""


@app.task(
    autoretry_for=(requests.RequestException,),
    max_retries=3,
    default_retry_delay=0.5,
    retry_backoff=False,
)
def visit(so_far, url, body, key=None):
    """Call one service, and add its answer to what is known so far."""
    headers = {"Idempotency-Key": key} if key else {}
    answer = requests.post(url, json={**so_far, **body}, headers=headers, timeout=3)
    if 400 <= answer.status_code < 500:
        raise Refused(f"{answer.status_code} {answer.json()['error']}")
    answer.raise_for_status()
    return {**so_far, **answer.json()}


# %% order [markdown]
# ## An order
#
# Six visits, one after the other; each gets what the ones before have learnt.

# %% trip
import trolley

ITEMS = [{"id": "tea", "quantity": 1}]


def order(id, keys=False):
    """Return the workflow of an order."""
    about = {"order_id": id}
    stops = [
        ("user", "/users/u-7/validate", {"shipping_address": None}),
        ("inventory", "/check", {"items": ITEMS}),
        ("payment", "/process", {"amount": 9.9, "method": "credit_card", "user_id": "u-7"}),
        ("inventory", "/update", {"items": ITEMS}),
        ("order", "/create", {"order_data": {"items": ITEMS}}),
        ("notification", "/send", {"user_id": "u-7", "type": "order_confirmation", "data": about}),
        ("analytics", "/track", {"event_type": "order", "data": about}),
    ]
    visits = []
    for service, path, body in stops:
        key = f"{id}{path}" if keys else None
        visits.append(trolley.visit.s(shop.urls[service] + path, about | body, key))
    first, *others = visits
    return chain(first.clone([about]), *others)


worker = lab.start_worker("trolley", "--concurrency=2")
done = order("order-1")().get(timeout=20)
print({key: done[key] for key in ("order_id", "transaction_id", "record_id", "status")})

# %% ledger [markdown]
# ## What the services saw
#
# The services write down each request, each effect and each answer. This ledger is the truth; what your code believes
# is only an opinion.

# %% ledger-lines
for entry in shop.ledger.entries[:9]:
    known = {k: v for k, v in entry.what.items() if k in ("effect", "answered", "amount", "path")}
    print(f"{entry.request:>2} {entry.kind:<8} {entry.service:<10} {entry.route:<9} {known}")


# %% good-day
def trip(title, since=0):
    """Draw the requests that the ledger holds from a line on, with their effects."""
    began, did, rows = {}, {}, []
    for entry in shop.ledger.entries[since:]:
        if entry.kind == "request":
            began[entry.request] = entry.at
        elif entry.kind == "effect":
            did[entry.request] = f" ({entry.what['effect']})"
        elif entry.kind == "answer":
            came = entry.what["answered"]
            text = entry.route + ("" if came == 200 else f": {came}") + did.get(entry.request, "")
            rows.append((entry.service, began[entry.request], entry.at, text, came == 200))
    pictures.trip(rows, title)


def effects(id):
    """Return what has really happened to an order."""
    found = [e for e in shop.ledger.entries if e.kind == "effect" and e.subject == id]
    return [f"{e.service}: {e.what['effect']}" for e in found]


trip("A good day")

# %% lost [markdown]
# ## Break it, one: the lost answer
#
# The payment service does its work, and the connection breaks before the answer is out. The task tries again, as it was
# told. What does the customer pay? Guess before you run the cell.

# %% charged-twice
since = len(shop.ledger.entries)
shop.script("payment", "process", "order-2", lost())
print(order("order-2")().get(timeout=20)["status"])
print(*effects("order-2"), sep="\n")
trip("The answer is lost, and the charge made again", since)

# %% key [markdown]
# From outside, "not done" and "done, but not heard" look the same. So the caller gives the work a name that stays the same
# in each attempt, an `Idempotency-Key`. The service keeps its first answer and gives it again.

# %% charged-once
since = len(shop.ledger.entries)
shop.script("payment", "process", "order-3", lost())
print(order("order-3", keys=True)().get(timeout=20)["status"])
print(*effects("order-3"), sep="\n")
trip("The same, with a key", since)

# %% question-key [markdown]
# What has the key to be made of? What if it were drawn anew in each attempt, or were the same for two orders?

# %% gone [markdown]
# ## Break it, two: sold out in the middle
#
# The tea is checked, then paid for; meanwhile somebody else takes the last packet. There is no retry that helps.

# %% sold-out
since = len(shop.ledger.entries)
shop.script("payment", "process", "order-4", latency(1.2))
result = order("order-4", keys=True)()
lab.until(lambda: effects("order-4"), what="the charge is made")
shop.stock("tea", 0)
lab.until(result.ready, what="the chain has stopped")
print("the caller sees:", result.state, repr(result.result))
print("what has happened:", effects("order-4"))
trip("Sold out between the charge and the update", since)

# %% read [markdown]
# The chain ends where it broke. The caller may learn of it, if it still waits. The customer has paid and gets nothing, and
# is not told. All parts did what they were asked to. What would have to happen now, in which order, and
# who makes sure that it happens even if THAT fails?
#
# ## What to take with you
#
# - Read the effects where they happen. A task's SUCCESS is no proof, and neither is its failure.
# - A retry without a key repeats the work. A key without a retry loses it.
# - Every step that can't be undone by waiting needs a step that undoes it.
#
# Go on with `exercises/3_1/README.md`. And try here: `shop.down("analytics", lost())`, and another order. Should it fail
# because nobody counts it?

# %% end
worker.kill()
shop.stop()
