"""The notebook of 1_1: caller, broker, worker, and who keeps a task. `lab tables` makes it anew."""

# %% title [markdown]
# # 1_1 Caller, broker, worker: who has the task now?
#
# Four parties take part in every Celery call: the caller, the broker, the worker, the result backend. At any moment
# just one of them is responsible for the task. In this notebook you follow a task from hand to hand, stop a worker
# politely, and then kill one, to see which tasks come back and which are gone for good.
#
# The example is a post office. The exercise `1_1` is about the environment around it.

# %%
from celery.exceptions import TimeoutError
from kombu import Connection
from redis import Redis

from grader.notebook import pictures
from grader.notebook.hands import hands_on
from grader.notebook.spans import spans

lab = hands_on("1_1")
redis = Redis.from_url(lab.backend)
print("brokers that are up:", *lab.brokers)

# %% file="post.py"
import time

from celery import Celery

app = Celery("post")
app.conf.task_default_queue = "post"
app.conf.worker_prefetch_multiplier = 1
# Redis gives back what a dead worker held when this time is over. An hour is usual; for looking on
# it is two seconds here. RabbitMQ knows of the dead worker at once and has no need of it.
app.conf.broker_transport_options = {
    "visibility_timeout": 2,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}


@app.task
def carry(parcel, seconds=0.5):
    """Carry a parcel. Acknowledged when it begins: that is Celery's default."""
    time.sleep(seconds)
    return f"parcel {parcel} delivered"


@app.task(acks_late=True)
def carry_safely(parcel, seconds=0.5):
    """Carry a parcel. Acknowledged when it is done."""
    time.sleep(seconds)
    return f"parcel {parcel} delivered"


# %% nobody [markdown]
# ## Nobody is at home
#
# The caller needs no worker. It hands the message to the broker and gets a receipt: an id.

# %% waiting
import post

first = post.carry.delay(1)
print("receipt:", first.id)
print("messages in the queue:", redis.llen("post"), "   state:", first.state)
try:
    first.get(timeout=1)
except TimeoutError as error:
    print("after one second:", error)

unknown = post.app.AsyncResult("no-such-task")
print("state of an id that was never given out:", unknown.state)

# %% pending [markdown]
# `PENDING` means: the backend knows nothing. It can't tell a task that waits from one that never was. So a caller that
# waits without a timeout may wait for ever.
#
# ## A worker comes

# %% comes
worker = lab.start_worker("post", "--concurrency=2")
print(first.get(timeout=10), "- messages in the queue:", redis.llen("post"))
print("who is there:", post.app.control.inspect(timeout=0.5, limit=1).ping())

# %% polite [markdown]
# ## A polite end
#
# SIGTERM asks a worker to end. Send a task that takes a second, and the signal in the middle of it. The helper
# `worker.stop()` does no more than `kill -TERM` with the worker's pid, and waits.

# %% stopped
slow = post.carry.delay(2, seconds=1)
lab.until(lambda: slow.id in worker.log, what="the worker has taken it")
worker.stop()
print("the task:", slow.state, "-", slow.result)
print(*[line for line in worker.log.splitlines() if "shutdown" in line], sep="\n")

# %% kill [markdown]
# ## Break it: the worker dies
#
# Now the power fails: SIGKILL for the worker and its pool. Six parcels are sent, the worker has two processes, and it
# dies while both are busy. Then a second worker starts. Which parcels arrive? Guess before you run the next cell: on
# each broker, once with the default and once with `acks_late`.


# %% crashes
def crash(task, broker):
    """Send six tasks, kill the worker at its second start, let another one go on."""
    with lab.recorded(broker) as events, Connection(lab.brokers[broker]) as connection:
        ids = [task.apply_async([n], connection=connection).id for n in range(6)]
        doomed = lab.start_worker("post", "--concurrency=2", "--hostname=doomed@%h", broker=broker)
        lab.until(lambda: len(spans(events)) >= 2, what="two tasks have started")
        in_the_middle = lab.now() + 0.2
        lab.until(lambda: lab.now() > in_the_middle)
        doomed.kill()
        killed = lab.now()
        taken = set() if task.acks_late else {span.id for span in spans(events)}

        def settled():
            return taken | {span.id for span in spans(events) if span.end} >= set(ids)

        with lab.worker("post", "--concurrency=2", "--hostname=next@%h", broker=broker):
            ready = lab.now()
            lab.until(settled, 30, "all other tasks are done")
    return spans(events), (killed, ready), ids


panels = {}
for broker in lab.brokers:
    panels[f"{broker}, default"] = crash(post.carry, broker)
    panels[f"{broker}, acks_late"] = crash(post.carry_safely, broker)

# %% picture-deliveries
pictures.deliveries(panels)

# %% counts
for title, (found, _, ids) in panels.items():
    runs = [len([span for span in found if span.id == id]) for id in ids]
    done = len({span.id for span in found if span.end})
    print(f"{title:<20} {done} of 6 done; starts of each task: {runs}")

# %% read [markdown]
# - A red bar is an execution that the kill has cut off. Where it is grey, no worker was there.
# - With the default, the broker has forgotten a task as soon as it begins. What was cut off is gone, and its caller will
#   wait for ever.
# - With `acks_late` it comes back, at once from RabbitMQ, and from Redis when the `visibility_timeout` is over. The
#   parcel is on its way twice: what would that mean for a payment?
# - What waited in the worker, taken from the queue but not begun, comes back in both cases.
#
# ## What to take with you
#
# - Early acknowledgement: at most once. Late: at least once. Exactly once is for your code to see to.
# - Redis learns of a dead worker from a clock, RabbitMQ from the closed connection.
# - A polite end loses nothing; that is why the signal has to reach the worker.
#
# Go on with `exercises/1_1/README.md`. And try here: what if a task takes longer than the `visibility_timeout` of two
# seconds, and no worker dies at all?
