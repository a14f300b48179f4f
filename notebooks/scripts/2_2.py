"""The notebook of 2_2: what beat does at which time. `lab tables` makes it anew."""

# %% title [markdown]
# # 2_2 Beat: what is sent, and when
#
# Beat is a process that looks at the clock and sends messages. It runs no task and waits for none. In this notebook you
# ask schedules what they would do in the two nights in which the clock is set, then run a real beat without any worker,
# and see what happens to what nobody fetched.
#
# The example is a railway station. The exercise `2_2` has other entries, and data that they work on.

# %%
import sys
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from celery import Celery
from celery.schedules import crontab, schedule
from redis import Redis

from grader.notebook import pictures
from grader.notebook.hands import hands_on

lab = hands_on("2_2")
redis = Redis.from_url(lab.backend)
print("brokers that are up:", *lab.brokers)

# %% ask [markdown]
# ## Ask the schedule
#
# A schedule answers one question: "you fired last at this time, and now it is that time; are you due?" Beat asks it
# again and again. `nowfun` lets us say what time it is, so a night passes in a moment. Nothing here is simulated but the
# clock: the answers are Celery's own.

# %% simulate
BERLIN, UTC = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")


def fires(make, start, hours, zone):
    """Return when a schedule fires, asked once a minute as beat would."""
    app = Celery("station", set_as_current=False)
    app.conf.timezone = zone
    clock = start.astimezone(UTC)
    entry = make(app=app, nowfun=lambda: clock.astimezone(ZoneInfo(zone)))
    last, found = entry.now(), []
    for _ in range(hours * 60):
        clock += timedelta(minutes=1)
        if entry.is_due(last).is_due:
            last = entry.now()
            found.append(clock.astimezone(BERLIN))
    return found


def night(day):
    """Return the calendar of a night, and its full hours as they pass."""
    start = datetime.fromisoformat(f"{day}T00:30").replace(tzinfo=BERLIN)
    rows = {
        "crontab 02:30, Berlin": (lambda **k: crontab(hour=2, minute=30, **k), "Europe/Berlin"),
        "crontab 02:30, UTC": (lambda **k: crontab(hour=2, minute=30, **k), "UTC"),
        "crontab, each full hour": (lambda **k: crontab(minute=0, **k), "Europe/Berlin"),
        "every 60 minutes": (lambda **k: schedule(3600, **k), "Europe/Berlin"),
    }
    calendar = {name: fires(make, start, 6, zone) for name, (make, zone) in rows.items()}
    first = start.astimezone(UTC).replace(minute=0)
    return calendar, [(first + timedelta(hours=h)).astimezone(BERLIN) for h in range(8)]


spring, autumn = night("2027-03-28"), night("2027-10-31")
for name, times in spring[0].items():
    print(f"{name:<24}", *[f"{time:%H:%M}" for time in times])

# %% guess [markdown]
# In spring the clock goes from 02:00 to 03:00: there is no 02:30. In autumn it goes from 03:00 back to 02:00: there are
# two. Guess first: how often does each entry fire?

# %% picture-spring
pictures.calendar(*spring, title="The night of 28 March 2027 in Berlin")

# %% picture-autumn
pictures.calendar(*autumn, title="The night of 31 October 2027 in Berlin")

# %% read [markdown]
# - The missing 02:30 fires once, at 03:30: that is when it would have been 02:30 on a clock that nobody had set.
# - A crontab that has fired in the first 02:00 hour sits the second one out. "Each full hour" leaves a gap of two real
#   hours. Would that matter to a health check?
# - An interval knows no clock on the wall.
# - Without a `timezone`, Celery's is UTC: a night job of 02:30 then runs in the morning traffic, and at another local hour
#   in winter than in summer.

# %% file="station.py"
from celery import Celery

app = Celery("station")
app.conf.task_default_queue = "station"
app.conf.timezone = "Europe/Berlin"


@app.task
def ring():
    """Ring the bell."""
    return "ding"


app.conf.beat_schedule = {
    "bell": {"task": "station.ring", "schedule": 1.0},
    "bell-that-expires": {
        "task": "station.ring",
        "schedule": 1.0,
        "options": {"expires": 0.5},
    },
}

# %% real [markdown]
# ## A real beat, and nobody there
#
# Two bells that ring each second; one of them has an expiry. No worker runs. What will be in the queue after four rings?


# %% beat
def start_beat(module):
    """Start beat in a process of its own, as `celery -A station beat` would."""
    options = ["--loglevel=info", "--schedule=ticks"]
    return lab.run(sys.executable, "-m", "celery", "-A", module, "beat", *options)


beat = start_beat("station")
lab.until(lambda: redis.llen("station") >= 8, 30, "eight messages are in the queue")
beat.end()

print("messages in the queue:", redis.llen("station"))
print(*[line for line in beat.output.text.splitlines() if "Sending" in line][:4], sep="\n")

# %% nobody [markdown]
# Beat does not notice that nobody works: what it sends piles up.
#
# ## A worker comes back
#
# Everything that has waited now comes at once. What is too old is not run.

# %% expired
with lab.recorded() as events, lab.worker("station", "--concurrency=2") as worker:
    lab.until(lambda: redis.llen("station") + redis.hlen("unacked") == 0, what="all is fetched")
    lab.until(lambda: worker.log.count("succeeded in") >= 4, what="the bells have rung")
kinds = [event["type"] for event in events]
print("run:", kinds.count("task-succeeded"), end="   ")
print("expired:", worker.log.count("Discarding revoked task"))

# %% restart [markdown]
# ## Beat comes back, too
#
# Beat keeps in a file when each entry fired last. While it was away nothing was sent. What does it do about the rings
# that it missed? It has been away for some seconds now; let it catch up, and look at its first moment.

# %% catch-up
away = lab.now()
lab.until(lambda: lab.now() > away + 2)
redis.delete("station")
beat = start_beat("station")
lab.until(lambda: "beat: Starting" in beat.output.text, what="beat has started")
lab.until(lambda: "Sending due task bell " in beat.output.text, what="the bell was rung")
beat.end()
rings = [line for line in beat.output.text.splitlines() if "Sending due task bell " in line]
times = [datetime.fromisoformat(line[1:20]) for line in rings]  # [2027-01-31 07:00:00,123: ...
together = [time for time in times if time == times[0]]
print("rings in its first moment, after two seconds away:", len(together))
print("what it keeps:", [path.name for path in lab.folder.glob("ticks*")])

# %% once [markdown]
# One. Beat makes up for what it missed at most once an entry, however long it was away.
#
# ## Break it: an entry that looks harmless
#
# One announcement more, thirty minutes late. Which of the three entries will fire?

# %% file="delayed.py"
from station import app

app.conf.beat_schedule = {
    **app.conf.beat_schedule,
    "delay": {"task": "station.announce", "schedule": 1.0, "args": (30)},
}

# %% args
redis.delete("station")
beat = start_beat("delayed")
lab.until(lambda: not beat.alive, what="beat has ended")
print("exit status:", beat.exit_code, "   messages:", redis.llen("station"))
print([line for line in beat.output.text.splitlines() if line.strip()][-1][-60:])

# %% end [markdown]
# `(30)` is no tuple, it is 30. One bad entry, and nothing at all is sent. Who would have noticed?
#
# ## What to take with you
#
# - Beat sends; it neither runs nor waits nor counts.
# - Say the time zone, and look at the two nights.
# - Give each periodic task an expiry, or the queue does the remembering.
# - One beat for one schedule: a second one sends everything a second time.
#
# Go on with `exercises/2_2/README.md`. And try here: start two beats with two `--schedule` files. And: draw the same
# nights for `America/Sao_Paulo`.
