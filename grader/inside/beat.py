"""Runs the ordinary `celery beat` of a submission in a time of its own.

usage: beat.py LIMITS PLAN

The plan is a JSON object: `module` (of the submission), `legs` (pairs of epoch seconds, from and
until, in order), `add` (calls `[task, args, kwargs]` made while beat runs) and `end` (the number of
the signal that ends it, 0 for none). What beat sends is written down instead of being published,
one JSON object a line. Python's clock stands still but for what beat asks to sleep; of a scheduler
that looks every few seconds whether there is something new, the idle stretches are left out.
"""

import importlib
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits

PERIOD = 300.0  # every instant of interest is a multiple of it, or that long after a sending
POLL = 60.0  # who asks to sleep for less than this may be polling
REAL = 6.0  # seconds that pass at their real speed, so that what was added comes into force
MOMENT = 0.001  # that a look at the clock takes: a clock that stood still would never be due


class Clock:
    """The clock of celery.beat: everything of `time`, and a sleep that takes no time."""

    def __init__(self, plan, say):
        import time_machine

        self.plan, self.say = plan, say
        self.legs = [tuple(leg) for leg in plan["legs"]]
        self.coordinates = time_machine.travel(self.legs[0][0], tick=False).start()
        self.real = REAL if plan["add"] else 0.0
        self.added = False
        self.sent_at = 0.0  # of the last message
        self.marks = {}

    def __getattr__(self, name):
        return getattr(time, name)

    def monotonic(self):
        self.coordinates.shift(MOMENT)
        return time.monotonic()

    def sleep(self, seconds):
        """Let the time pass; end the program when the last leg is over."""
        self.add()
        real = min(seconds, self.real)
        if real > 0:
            self.real -= real
            time.sleep(real)
        self.coordinates.shift(seconds if real else seconds)
        if seconds < POLL and self.real <= 0:
            self.skip(seconds)
        if time.time() >= self.legs[0][1]:
            self.next_leg()

    def skip(self, poll):
        """Leave out the time until shortly before the next instant of interest."""
        now, room = time.time(), poll + 0.5
        soon = [now - now % PERIOD, now - now % PERIOD + PERIOD, *self.marks.values()]
        if any(abs(now - mark) <= room + poll for mark in soon):
            return
        target = min(mark for mark in soon if mark > now) - room
        if target > now:
            self.coordinates.shift(target - now)

    def add(self):
        """Make the plan's calls, once."""
        if self.added:
            return
        self.added = True
        module = sys.modules[self.plan["module"]]
        for task, args, kwargs in self.plan["add"]:
            try:
                answer = {"value": module.app.tasks[task](*args, **kwargs)}
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}"[:500]}
            self.say({"added": [task, args, kwargs], **answer})

    def next_leg(self):
        self.legs.pop(0)
        if self.legs:
            self.coordinates.move_to(self.legs[0][0])
            return
        self.say({"over": True})
        if self.plan["end"]:
            os.kill(os.getpid(), self.plan["end"])
        raise SystemExit(0)


def recorder(clock, say):
    """Return what stands in for the function that publishes a task's message."""

    def record(producer, name, message, **options):
        headers, (args, kwargs, _) = message.headers, message.body
        now = time.time()
        clock.marks[name] = now + PERIOD
        said = {"task": name, "at": now, "args": args, "kwargs": kwargs}
        say({**said, "expires": headers.get("expires"), "eta": headers.get("eta")})

    return record


def main():
    """Run beat to the end of the plan."""
    limits.apply(sys.argv[1])
    limits.search_here()
    plan = json.loads(sys.argv[2])
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(what):
        lines.write(json.dumps(what, default=repr) + "\n")
        lines.flush()

    clock = Clock(plan, say)
    beat, amqp = map(importlib.import_module, ("celery.beat", "celery.app.amqp"))
    beat.time = clock
    amqp.AMQP.send_task_message = property(lambda self: recorder(clock, say))
    module = importlib.import_module(plan["module"])
    conf = module.app.conf
    say({"timezone": str(conf.timezone), "enable_utc": bool(conf.enable_utc)})
    sys.argv = ["celery", "-A", plan["module"], "beat", "--max-interval", str(int(PERIOD))]
    sys.exit(importlib.import_module("celery.bin.celery").main())


if __name__ == "__main__":
    main()
