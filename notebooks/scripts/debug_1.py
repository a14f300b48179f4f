"""The notebook of debug_1: how a worker grows, seen from outside. `lab tables` makes it anew."""

# %% title [markdown]
# # debug_1 A worker that grows: seen from outside
#
# A worker lives for weeks. What a single task forgets to give back, a million tasks forget a million times. In this
# notebook you watch a leak from outside, tell it from a worker that only gets warm, see how a popular option hides it,
# and find the line.
#
# The example is a library that lends books. The exercise `debug_1` has six leaks, and none of them is this one.

# %%
import importlib
import linecache
import os
import tracemalloc

import psutil

from grader.notebook import pictures
from grader.notebook.hands import hands_on

lab = hands_on("debug_1")
print("brokers that are up:", *lab.brokers)

# %% file="library.py"
from collections import deque

from celery import Celery

app = Celery("library")
app.conf.task_default_queue = "library"

under_way = {}  # what is being lent right now, for the screen at the desk
last_slips = deque(maxlen=120)


def slip(number):
    """Return what is printed for a loan: some 20 KiB."""
    return [bytearray(20_000 + number % 7)]


@app.task(bind=True)
def lend(self, number):
    """Lend a book; every third is not there."""
    under_way[self.request.id] = slip(number)
    if number % 3 == 0:
        return "not there"
    del under_way[self.request.id]
    return number


@app.task(bind=True)
def lend_mended(self, number):
    """The same, and the screen is cleared however it ends."""
    under_way[self.request.id] = slip(number)
    try:
        if number % 3 == 0:
            return "not there"
        return number
    finally:
        del under_way[self.request.id]


@app.task
def lend_and_keep(number):
    """Keep the last 120 slips, on purpose."""
    last_slips.append(slip(number))
    return number


# %% outside [markdown]
# ## Watch from outside
#
# Never ask the patient. The memory of a pool's process is read by `psutil`, from another process: this one. One process
# in the pool, so that all tasks meet the same memory.

# %% measure
import library


def watch(task, *options, batches=16, size=20):
    """Drive a task on a fresh worker; return (tasks done, resident MiB) and the pids seen."""
    points, pids = [], []
    with lab.worker("library", "--concurrency=1", *options) as worker:
        for batch in range(batches):
            results = [task.delay(n) for n in range(batch * size, (batch + 1) * size)]
            for result in results:
                result.get(timeout=10)
            child = lab.until(lambda: worker.children, what="the pool has a process")[0]
            points.append(((batch + 1) * size, psutil.Process(child).memory_info().rss / 2**20))
            pids += [] if child in pids else [child]
    return points, pids


measured, pids = {}, {}
for name, task in {
    "leaking": library.lend,
    "mended": library.lend_mended,
    "keeps 120 slips": library.lend_and_keep,
}.items():
    measured[name], pids[name] = watch(task)

# %% picture-curves
pictures.curves(measured)

# %% slopes
for name, points in measured.items():
    (t0, first), (_, half), (t1, last) = points[0], points[len(points) // 2], points[-1]
    print(f"{name:<16} {1024 * (last - first) / (t1 - t0):6.1f} KiB a task;", end="  ")
    print(f"second half alone: {2 * 1024 * (last - half) / (t1 - t0):6.1f}")

# %% read [markdown]
# Two of the three grow at the beginning. Only one goes on. So a single difference between before and after proves
# nothing: what counts is whether it is still growing when everything is warm. How many tasks would you wait for that?
#
# And why does `lend` leak at all? Each of its lines looks right. Which way out of the function did its author not think
# of?

# %% hide [markdown]
# ## Hide it
#
# `--max-memory-per-child` replaces a process that has become too large, in KiB. That is first aid. Look at what it does
# to the curve, and count the processes.

# %% hidden
base = measured["leaking"][0][1]
limit = int(1024 * (base + 0.6))
hidden, seen = watch(library.lend, f"--max-memory-per-child={limit}")
print("processes:", len(seen), "instead of", len(pids["leaking"]))

# %% picture-hidden
pictures.curves({"leaking": measured["leaking"], "leaking, replaced": hidden})

# %% price [markdown]
# The line is no longer steep, and the leak is as large as before. Each saw-tooth costs a start, throws all caches away,
# and one day cuts off whatever else the process was good for.

# %% find [markdown]
# ## Find the line
#
# `tracemalloc` knows for each living block which line allocated it. Take a picture, let the suspect run, take another,
# compare. A task is a function: here it runs in this process, without a worker.

# %% tracemalloc
importlib.reload(library)
tracemalloc.start()


def run(count):
    """Lend some books here and now."""
    for number in range(count):
        library.lend.apply(args=[number])


run(30)  # let it get warm first
before = tracemalloc.take_snapshot()
run(90)
after = tracemalloc.take_snapshot()
tracemalloc.stop()

for entry in after.compare_to(before, "lineno")[:3]:
    frame = entry.traceback[0]
    print(f"{os.path.basename(frame.filename)}:{frame.lineno}", end="  ")
    print(f"{entry.size_diff / 1024:+.0f} KiB in {entry.count_diff:+d} blocks")
worst = after.compare_to(before, "lineno")[0].traceback[0]
print("the line:", linecache.getline(worst.filename, worst.lineno).strip())

# %% holder [markdown]
# That is who ALLOCATED it. Who still HOLDS it is another question. `gc.get_referrers` answers it, one step at a time:
# from one of the forgotten slips to what holds it.

# %% referrers
import gc

forgotten = next(iter(library.under_way.values()))
for holder in gc.get_referrers(forgotten):
    names = [name for name, value in vars(library).items() if value is holder]
    if names:
        print(type(holder).__name__, names, "with", len(holder), "entries")

# %% end [markdown]
# ## What to take with you
#
# - Measure from outside, on one process, when it is warm, and look at the slope.
# - Warmth ends; a leak does not.
# - A restart is first aid. The line is the cure.
#
# Go on with `exercises/debug_1/README.md`. And try here: let `lend` open a file in each task and forget it. Does memory
# tell? What does `psutil.Process(pid).num_fds()` say?
