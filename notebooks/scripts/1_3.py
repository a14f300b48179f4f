"""The notebook of 1_3: what a retry is, and when it comes. `lab tables` makes it anew."""

# %% title [markdown]
# # 1_3 Trying again: what a retry is, and when it comes
#
# A retry is no loop. The attempt ends, and a new message with the same id is sent, to be worked on later. In
# this notebook you look at that message while it waits, measure the waits of three kinds of retry, and see what
# many clients do to a service that comes back.
#
# The example is a lighthouse that reports by radio, through storms. The exercise `1_3` asks for other waits, and
# for much more care.

# %%
import json
import statistics
from datetime import datetime

from redis import Redis

from grader.notebook import pictures
from grader.notebook.hands import hands_on
from grader.notebook.spans import spans

lab = hands_on("1_3")
redis = Redis.from_url(lab.backend)
print("brokers that are up:", *lab.brokers)

# %% file="lighthouse.py"
import os
import random

from celery import Celery

app = Celery("lighthouse")
app.conf.task_default_queue = "lighthouse"


class Storm(Exception):
    """No radio contact."""


@app.task(bind=True, max_retries=10)
def fixed(self):
    """Wait three seconds, each time."""
    raise self.retry(exc=Storm("static"), countdown=3)


@app.task(autoretry_for=(Storm,), max_retries=10, retry_backoff=1, retry_jitter=False)
def exponential():
    """Wait twice as long each time; Celery works it out."""
    raise Storm("static")


@app.task(autoretry_for=(Storm,), max_retries=10, retry_backoff=1, retry_jitter=True)
def jittered():
    """The same, and Celery draws a lot between nothing and that."""
    raise Storm("static")


@app.task(bind=True, max_retries=10)
def report(self, ship, spread):
    """Report a ship; while the file `storm` lies there nobody can."""
    if os.path.exists("storm"):
        wait = random.uniform(0, 2) if spread else 1
        raise self.retry(exc=Storm("static"), countdown=wait)
    return ship


@app.task(bind=True, max_retries=3)
def careless(self):
    """Try again after any error at all, and say how it went."""
    try:
        raise self.retry(exc=Storm("static"), countdown=0.1)
    except Exception:
        return "done"


# %% anatomy [markdown]
# ## A retry, as it lies in Redis
#
# One task fails and will come back in three seconds. Where is it meanwhile?

# %% unacked
import lighthouse

worker = lab.start_worker("lighthouse", "--concurrency=2")
first = lighthouse.fixed.delay()
lab.until(lambda: first.state == "RETRY" and redis.hlen("unacked") == 1, what="the retry waits")

print("in the queue:", redis.llen("lighthouse"), "   in the hash `unacked`:", redis.hlen("unacked"))
message, exchange, queue = json.loads(redis.hvals("unacked")[0])
headers = message["headers"]
for key in ("task", "id", "retries", "eta"):
    print(f"{key:>8}: {headers[key]}")
print("the same id:", headers["id"] == first.id, "   state:", first.state)

# %% where [markdown]
# The worker has already taken the message and keeps it until its time (`eta`) comes. It has not acknowledged it:
# were the worker to die, the broker would hand it to another one.
#
# Redis does that by a clock, the `visibility_timeout`, one hour by default. What becomes of a retry that has to
# wait longer than that?

# %% three [markdown]
# ## Three ways to wait
#
# We don't have to wait to see the waits: the plan is in the message. `apply_async(retries=3)` sends a task as if
# three retries lay behind it, and the worker's events tell when the next attempt is due.


# %% plans
def plans(task, count):
    """Return (number of the retry, planned wait) of many tasks."""
    with lab.recorded() as events:
        sent = {task.apply_async(retries=n).id: n + 1 for n in range(5) for _ in range(count)}

        def planned():
            coming = [e for e in events if e["type"] == "task-received"]
            return [e for e in coming if e["retries"] == sent.get(e["uuid"])]

        lab.until(lambda: len(planned()) == len(sent), 60, "all retries are planned")
    began = {e["uuid"]: e["timestamp"] for e in reversed(events) if e["type"] == "task-started"}
    for event in planned():
        wait = 0  # a retry that needs no wait has no eta
        if event["eta"]:
            wait = datetime.fromisoformat(event["eta"]).timestamp() - began[event["uuid"]]
        yield event["retries"], wait


measured = {
    "fixed: 3 s": list(plans(lighthouse.fixed, 6)),
    "exponential": list(plans(lighthouse.exponential, 6)),
    "exponential with jitter": list(plans(lighthouse.jittered, 32)),
}
worker.kill()  # with all that waits in it
redis.flushdb()

for title, points in measured.items():
    middle = [statistics.median(w for n, w in points if n == k) for k in range(1, 6)]
    print(f"{title:<24} median waits:", *[f"{wait:.1f}" for wait in middle])

# %% picture-waits
pictures.waits(measured)

# %% read-waits [markdown]
# The left one asks a dead service twenty times a minute, for ever. The middle one gives it time. What is the right
# one for? And why do its points lie on whole seconds?

# %% herd [markdown]
# ## The herd
#
# Thirty ships report, the storm lasts two seconds, and everybody tries again: once each after exactly one second,
# once after a time drawn from two seconds. The picture counts the attempts in each tenth of a second: that is the
# load on the service at the moment when it comes back.

# %% herds
from pathlib import Path


def attempts(spread):
    """Return when each attempt began, in seconds since the first."""
    storm = Path("storm")
    storm.touch()
    with lab.recorded() as events:
        results = [lighthouse.report.delay(f"ship {n}", spread) for n in range(30)]
        lab.until(lambda: any(e["type"] == "task-started" for e in events))
        over = lab.now() + 2
        lab.until(lambda: lab.now() > over, what="the storm is over")
        storm.unlink()
        for result in results:
            result.get(timeout=20)
    starts = [span.start for span in spans(events)]
    return [start - min(starts) for start in starts]


with lab.worker("lighthouse", "--concurrency=2"):
    starts = {"all after 1 s": attempts(spread=False), "drawn from 0 to 2 s": attempts(spread=True)}
print({title: f"{len(times)} attempts" for title, times in starts.items()})

# %% picture-herd
pictures.herd(starts, width=0.1, back=0.5)

# %% break [markdown]
# ## Break it: a retry that nobody notices
#
# `careless` means well: whatever goes wrong, try again. Look at its code once more before you run the cell. How
# often will it run? What will its caller be told?

# %% swallowed
with lab.worker("lighthouse", "--concurrency=1") as worker, lab.recorded() as events:
    result = lighthouse.careless.delay()
    print("the caller is told:", result.get(timeout=10), "- state", result.state)
    lab.until(lambda: worker.log.count("succeeded") == 4, what="it has run four times")
kinds = [event["type"] for event in events if event.get("uuid") == result.id]
print("what the worker did:", kinds.count("task-started"), "starts,", end=" ")
print(kinds.count("task-succeeded"), "times SUCCESS,", kinds.count("task-retried"), "times RETRY")

# %% why-swallowed [markdown]
# `self.retry()` first publishes the next attempt and then raises `Retry`, so that this attempt ends. Whoever
# catches that exception reports success for work that is still to be tried. The calls differ only in their number
# of retries: nothing in the result tells.

# %% end [markdown]
# ## What to take with you
#
# - A retry is a new message with the old id. It is decided, and can be seen, at the moment of the failure.
# - While it waits, it lies unacknowledged in a worker, and the worker's processes are free.
# - Jitter is for the service, not for you.
#
# Go on with `exercises/1_3/README.md`. And try here: change `countdown=3` to 20 seconds and stop the worker with
# `worker.stop()` while the retry waits. Where is the message then?
