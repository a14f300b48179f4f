"""The notebook of 2_1: how tasks wait for each other. `lab tables` makes it anew."""

# %% title [markdown]
# # 2_1 Workflows: how tasks wait for each other without waiting
#
# No task may wait for another one inside a worker: it would hold a process that the other one needs. Celery turns
# it round. Each message says what comes after it. In this notebook you look at that, see the same workflow run on
# one, two and four processes, and watch one hang for ever.
#
# The example is a newspaper: pages are written side by side, proof-read, and printed together.

# %%
import base64
import json

from celery import chain, chord, group
from celery.exceptions import TimeoutError
from redis import Redis

from grader.notebook import pictures
from grader.notebook.hands import hands_on
from grader.notebook.spans import spans

lab = hands_on("2_1")
redis = Redis.from_url(lab.backend)
print("brokers that are up:", *lab.brokers)

# %% file="newspaper.py"
import time

from celery import Celery

app = Celery("newspaper")
app.conf.task_default_queue = "newspaper"
app.conf.worker_prefetch_multiplier = 1


@app.task
def choose(day):
    """Choose the day's headline."""
    time.sleep(0.1)
    return f"News of {day}"


@app.task
def write(headline, page):
    """Write a page; the later ones take longer."""
    time.sleep(0.15 + 0.1 * page)
    return f"{headline}, page {page}"


@app.task
def print_all(pages):
    """Print all pages."""
    time.sleep(0.2)
    return len(pages)


@app.task
def deliver(count):
    """Take the paper to its readers."""
    time.sleep(0.1)
    return f"{count} pages delivered"


@app.task
def proofread(text):
    """Read ONE page."""
    return text.upper()


@app.task
def wait_inside(page):
    """What one should never do: wait for another task inside of a task."""
    return write.delay("x", page).get(timeout=3, disable_sync_subtasks=False)


# %% signature [markdown]
# ## What a workflow is
#
# A signature is a call that has not been made: a name and arguments, plain data. A workflow is a tree of signatures.
# A chord is a group and a body that gets the list of all its results.

# %% tree
import newspaper as n

edition = chain(
    n.choose.si("Monday"),
    chord([n.write.s(page) for page in range(1, 5)], n.print_all.s()),
    n.deliver.s(),
)
print(edition)

# %% message [markdown]
# ## The whole plan travels in the first message
#
# Send it while no worker runs, and look at what lies in the queue. There is ONE message, for the first task. All the
# rest hangs on it, in `embed["chain"]`, the last part first.

# %% embedded
sent = edition.apply_async()
message = json.loads(redis.lindex("newspaper", 0))
args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
print("messages in the queue:", redis.llen("newspaper"))
print("task:", message["headers"]["task"], args)
for step in reversed(embed["chain"]):
    print("then:", step["task"], step.get("subtask_type") or "")
print("bytes:", len(redis.lindex("newspaper", 0)))

# %% run [markdown]
# ## One, two, four processes
#
# The same workflow three times. The rows of the pictures are the processes of the worker's pool, as its log names
# them; the bars come from its events.

# %% gantts
runs = {}
for processes in (1, 2, 4):
    with (
        lab.recorded() as events,
        lab.worker("newspaper", f"--concurrency={processes}") as worker,
    ):
        if processes > 1:  # the first one has been waiting in the queue
            sent = edition.apply_async()
        print(sent.get(timeout=20))
        lab.until(lambda: worker.log.count("succeeded in") == 7, what="the log is written")
    runs[processes] = sent, spans(events, worker.log)
for processes, (_, found) in runs.items():
    print(processes, "processes:", round(found[-1].end - found[0].start, 2), "s")

# %% picture-one
pictures.gantt(runs[1][1], "One process")

# %% picture-four
pictures.gantt(runs[4][1], "Four processes")

# %% question-gantt [markdown]
# Which bar would you have to shorten to get the paper out sooner? What would eight processes change?

# %% graph [markdown]
# ## Who waits for whom
#
# The caller's result object knows its parents, back to the first task. With the measured times it is the plan as it
# was really carried out.

# %% picture-graph
pictures.graph(runs[4][0], runs[4][1], "What waited for what, and how long each took")

# %% counter [markdown]
# Nobody waits for the four pages, though. Where is it written down that three of four are ready? Look into Redis
# while a chord is half done.

# %% chord-counter
half = chord([n.write.s("x", page) for page in (1, 2, 30)], n.print_all.s())()
worker = lab.start_worker("newspaper", "--concurrency=2")
key = lab.until(lambda: redis.keys("celery-taskset-meta-*.j"), what="the chord has a key")[0]
lab.until(lambda: redis.zcard(key) == 2, what="two of three are ready")
ready = redis.zcard(key)
worker.kill()
redis.flushdb()
print(key.decode()[:40], "... holds", ready, "results of 3")

# %% explain-counter [markdown]
# Each task of the header puts its result there, and whoever comes last sends the body. So a chord needs a result
# backend, and its body comes only after EVERY task of the header has ended well.

# %% break [markdown]
# ## Break it, one: the list that came as a whole
#
# Write the pages, then proof-read them: a group after a group reads so naturally. What does each `proofread` get?

# %% wrong-shape
wrong = chain(
    group(n.write.s("x", page) for page in (1, 2)),
    group(n.proofread.s() for _ in range(2)),
)
with lab.worker("newspaper", "--concurrency=2"):
    result = wrong.apply_async()
    lab.until(lambda: all(one.ready() for one in result.results), what="both have ended")
    for one in result.results:
        print(one.state, repr(one.result))

# %% explain-shape [markdown]
# A chain that follows a group turns it into the header of a chord. Everything after it gets the LIST. If each page is
# to go its own way, what has to stand inside of the group?
#
# ## Break it, two: a task that waits
#
# Two processes, two tasks that each start another one and wait for it.

# %% deadlock
worker = lab.start_worker("newspaper", "--concurrency=2")
with lab.recorded() as events:
    stuck = group(n.wait_inside.s(1), n.wait_inside.s(1))()
    try:
        print(stuck.get(timeout=2))
    except TimeoutError:
        names = [span.short for span in spans(events)]
        print("after two seconds:", names.count("wait_inside"), "tasks wait,", end=" ")
        print(names.count("write"), "of their own tasks have started")
    worker.kill()

# %% end [markdown]
# Both processes are busy with waiting, so nobody is left to do what they wait for. With four processes it would go
# well, until two more callers come.
#
# ## What to take with you
#
# - The plan travels with the messages; no process holds it in its memory.
# - A join is a counter in the backend. It needs every part to end well.
# - Inside of a task nothing waits.
#
# Go on with `exercises/2_1/README.md`. And try here: let one `write` fail. What do the others do, what does the caller
# see, and does `print_all` ever run?
