"""The notebook of 1_2: what travels between a caller and a worker. `lab tables` makes it anew."""

# %% title [markdown]
# # 1_2 What travels: a message, a result, an error
#
# Your caller and your worker are two processes that never meet. Everything between them is bytes in a
# broker and in a result backend. In this notebook you run a real worker, stop it, and look at these bytes
# where they lie: in Redis and in RabbitMQ.
#
# The example is a kitchen. The exercise `1_2` is a calculator; it meets all of this again.

# %%
import base64
import json
import math
import statistics
from decimal import Decimal

from celery.exceptions import TimeoutError
from kombu import Connection
from kombu.exceptions import EncodeError
from redis import Redis

from grader.notebook.hands import hands_on

lab = hands_on("1_2")
print("brokers that are up:", *lab.brokers)
print("working directory:  ", lab.folder)

# %% the-app [markdown]
# ## A small app
#
# `hands_on` has found the brokers of `lab up`, set `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`, and
# gone into a new folder, which ends with this notebook. All else is what you would type yourself. The next
# cell writes a file.

# %% file="kitchen.py"
from celery import Celery

app = Celery("kitchen")
app.conf.task_default_queue = "kitchen"


class Burnt(Exception):
    """The cook's own kind of error."""


@app.task
def cook(dish, portions=1):
    """Say what has been cooked."""
    return {"dish": dish, "portions": portions}


@app.task
def show(value):
    """Tell what arrived in the worker: its type and its repr."""
    return [type(value).__name__, repr(value)]


@app.task
def fail(kind):
    """Fail in one of two ways."""
    raise {"own": Burnt("black"), "builtin": ValueError(f"no such dish: {kind!r}")}[kind]


# %% no-worker [markdown]
# ## A message on the wire, in Redis
#
# No worker runs yet. A call is sent all the same: the broker keeps it. In Redis a queue is a plain list, and
# its name is the key.

# %% redis-message
import kitchen

redis = Redis.from_url(lab.backend)
waiting = kitchen.cook.delay("soup", portions=4)

raw = redis.lindex("kitchen", 0)
message = json.loads(raw)
print("keys in Redis:", sorted(redis.keys("*")))
print("length of the list:", redis.llen("kitchen"))
print(json.dumps(message, indent=1)[:1500])

# %% body [markdown]
# The headers say which task is meant (by NAME: the code itself never travels), its id, how often it was tried
# before, when it expires. The body holds the arguments, packed once more.

# %% redis-body
args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
print("task:  ", message["headers"]["task"])
print("args:  ", args)
print("kwargs:", kwargs)
print("embed: ", embed)

# %% rabbit [markdown]
# ## The same message in RabbitMQ
#
# RabbitMQ has queues of its own, and a message keeps its parts apart: properties, headers and a body that needs
# no base64. `basic_get` takes the first message, and `basic_reject(requeue=True)` puts it back. The caller is the same
# function; only the connection is another.

# %% rabbit-message
if "rabbitmq" in lab.brokers:
    with Connection(lab.brokers["rabbitmq"]) as connection:
        kitchen.cook.apply_async(["soup"], {"portions": 4}, connection=connection)
        channel = connection.channel()
        found = lab.until(lambda: channel.basic_get("kitchen"), what="the message is in the queue")
        print("headers:   ", {k: found.headers[k] for k in ("task", "id", "retries", "argsrepr")})
        print("properties:", {k: found.properties[k] for k in ("content_type", "delivery_mode")})
        print("body:      ", found.body)
        channel.basic_reject(found.delivery_tag, requeue=True)
else:
    print("RabbitMQ is not up: lab up --rabbitmq")

# %% question-durable [markdown]
# `delivery_mode` 2 means: written to disk. What would a restart of Redis do to the list above?

# %% work [markdown]
# ## A worker takes it
#
# Now a worker starts, in a process of its own. The command below is what you would type in a second terminal.

# %% result
worker = lab.start_worker("kitchen", "--concurrency=2")

print(waiting.get(timeout=10))
print("still in the list:", redis.llen("kitchen"))
print("stored result:", redis.get(f"celery-task-meta-{waiting.id}").decode())
print("forgotten by Redis in", redis.ttl(f"celery-task-meta-{waiting.id}"), "seconds")

# %% json [markdown]
# ## What JSON does to your values
#
# Celery packs arguments as JSON. JSON has no tuple, no integer keys, one kind of number. Compare what you
# send with what arrives.

# %% types
samples = [0.1, 5.0, 10**30, (1, 2), {1: "one"}, Decimal("0.10"), math.nan, "3.50", None]
for sample in samples:
    kind, text = kitchen.show.delay(sample).get(timeout=10)
    changed = "" if (kind, text) == (type(sample).__name__, repr(sample)) else "   <- changed"
    print(f"{sample!r:>34}   arrives as {kind:<8} {text}{changed}")

# %% question-types [markdown]
# Which of these would hurt a calculator? And which value is no JSON at all, although Python writes and reads it?

# %% breaks [markdown]
# ## Break it
#
# **One:** send what JSON can't hold. **Two:** send a task that the worker does not know. **Three:** hand the
# worker a message in a format that it does not accept. Where does each error show, at the caller or at the
# worker?

# %% unknown
try:
    kitchen.show.delay({1, 2, 3, object})
except EncodeError as error:
    print("one, at the caller: ", type(error).__name__, "-", str(error)[:60])

stray = kitchen.app.send_task("kitchen.wash_up", queue="kitchen")
print("two, from the backend:", repr(lab.until(lambda: stray.state != "PENDING" and stray.result)))

pickled = kitchen.cook.apply_async(["soup"], serializer="pickle")
lab.until(lambda: "Refusing to deserialize" in worker.log)
try:
    pickled.get(timeout=1)
except TimeoutError:
    print("three: the caller waits for ever, state", pickled.state)
refusal = next(line for line in worker.log.splitlines() if "Refusing" in line)
print("three, in the worker's log:", refusal[:120])

# %% why-pickle [markdown]
# Pickle is refused for a reason: whoever unpickles a message runs code that the message chooses.

# %% errors [markdown]
# ## How an error comes home
#
# An exception can't travel either. The backend keeps its type's name and its arguments, and the caller builds
# it again, if it can find the class.

# %% exceptions
for kind in ("builtin", "own"):
    failed = kitchen.fail.delay(kind)
    lab.until(failed.ready, what="the task has failed")
    stored = json.loads(redis.get(f"celery-task-meta-{failed.id}"))
    print("stored: ", stored["status"], stored["result"])
    print("rebuilt:", repr(failed.result), "from module", type(failed.result).__module__)
    print()

# %% time [markdown]
# ## Where the time goes
#
# The worker tells what it does in events. With the caller's own clock they give the life of a message: on its
# way, waiting for a free process, at work and on the way back.


# %% stages
def lives(broker, count=40):
    """Send tasks one by one and return how long each stage of each took, in milliseconds."""
    rows = []
    with Connection(lab.brokers[broker]) as connection, lab.recorded(broker) as events:
        for n in range(count):
            sent = lab.now()
            result = kitchen.cook.apply_async([f"dish {n}"], connection=connection)
            result.get(timeout=10, interval=0.001)
            rows.append((result.id, sent, lab.now()))
    at = {(e["uuid"], e["type"]): e["timestamp"] for e in events if "uuid" in e}
    for id, sent, back in rows:
        received, started = at[id, "task-received"], at[id, "task-started"]
        yield {
            "to the worker": 1000 * (received - sent),
            "to its process": 1000 * (started - received),
            "at work, and the result back": 1000 * (back - started),
        }


measured = {"redis": list(lives("redis"))}
worker.stop()
if "rabbitmq" in lab.brokers:
    with lab.worker("kitchen", "--concurrency=2", broker="rabbitmq"):
        measured["rabbitmq"] = list(lives("rabbitmq"))
for broker, rows in measured.items():
    middle = statistics.median(sum(row.values()) for row in rows)
    print(f"{broker:<9} median round trip {middle:.1f} ms")

# %% picture-stages
from grader.notebook import pictures

pictures.stages(measured)

# %% end [markdown]
# ## What to take with you
#
# - Names and JSON travel, never code and never objects.
# - Without a result backend an error is only a line in some worker's log.
# - A value that changes on its way changes silently.
#
# Go on with `exercises/1_2/README.md`. And try here: what does `show.delay(1e400)` bring home? What does a
# task's `argsrepr` tell whoever can read your broker?
