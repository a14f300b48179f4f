"""Runs the ordinary `celery beat` of a submission in a time of its own.

usage: beat.py LIMITS PLAN

The plan is a JSON object:
    module   the submission's module
    legs     pairs of epoch seconds: beat lives from the first to the second, then in the next leg
    fine     pairs of epoch seconds between which every due instant counts; elsewhere full hours do
    whole    pairs of epoch seconds between which beat wakes up as often as it asks to
    add      calls [task, args] to make while it runs; they and what follows take real seconds
    periods  seconds after a sending at which the same may be due again
    pace     how much faster than a real clock, 0 for as fast as it goes
    publish  false: what beat sends is only written down
    end      the number of the signal that ends beat after the last leg, 0 for none

One JSON object a line goes out for each thing that happens. Python's clock (time, datetime) moves
only when beat sleeps, so a fortnight takes seconds. Most wake-ups are left out: where it is fine,
those of a scheduler that looks for news every few seconds; elsewhere all but a few each hour. What
was due in between is then late, what is due on the hour is not.
"""

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits

# What counts is due at a multiple of these seconds; where it is fine, also some after a sending.
PERIOD, HOUR = 300.0, 3600.0
POLL = 60.0  # who asks to sleep for less may be looking for news
REAL = 6.0  # seconds at real speed after `add`: what was added must be in force by then
MOMENT = 0.001  # that a look at the clock takes: in a clock that stands still nothing becomes due
Say = Callable[[dict[str, Any]], None]


class Clock:
    """Stands in for the module `time` in celery.beat."""

    def __init__(self, plan: dict[str, Any], say: Say) -> None:
        import time_machine

        self.plan, self.say, self.legs = plan, say, list(plan["legs"])
        self.begin = self.legs[0][0]
        self.travel = time_machine.travel(self.begin, tick=False).start()
        self.real = REAL if plan["add"] else 0.0
        self.marks: dict[Any, float] = {"": self.begin + PERIOD}
        self.errors: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        """Beat looks at this clock after each tick."""
        self.travel.shift(MOMENT)
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let the time pass; end beat when the last leg is over."""
        if self.real > 0:
            self.add()
            if self.plan["add"]:  # not ready yet: asked again soon
                seconds = min(seconds, 1.0)
            # A beat that sleeps for longer than it has in real seconds is late all the same.
            waited = min(seconds, self.real)
            self.real -= waited
            threading.Event().wait(waited)
            if self.real <= 0:
                self.give_up()
        elif self.plan["pace"]:
            threading.Event().wait(seconds / self.plan["pace"])
        self.travel.shift(seconds)
        if self.real <= 0:
            self.skip(seconds)
        if time.time() >= self.legs[0][1]:
            self.next_leg()

    def skip(self, asked: float) -> None:
        """Go on to the next instant that counts, unless one has only just been.

        Beat wakes up again shortly after an instant: what was due a moment later is not lost.
        """
        now, plan = time.time(), self.plan
        if any(start <= now < end for start, end in plan["whole"]):
            return
        fine = any(start <= now < end for start, end in plan["fine"])
        if fine and asked >= POLL:
            return  # it knows when it is needed
        step = PERIOD if fine else HOUR
        starts = (start for start, _ in [*plan["fine"], *plan["whole"]])
        marks = [now - now % step, now - now % step + step, *starts]
        marks += self.marks.values() if fine else []
        if not any(0 <= now - mark <= min(asked, POLL) + 0.5 for mark in marks):
            left_out = min(mark for mark in marks if mark > now) - now
            if plan["pace"]:
                threading.Event().wait(left_out / plan["pace"])
            self.travel.shift(left_out)

    def add(self) -> None:
        """Make the plan's calls; one that fails is made again, for beat may not be ready yet."""
        tasks = sys.modules[self.plan["module"]].app.tasks
        for call in list(self.plan["add"]):
            task, args = call
            try:
                # Not called directly: a task may want to know the id of its own call.
                value = tasks[task].apply(args=args, throw=True).get()
                self.say({"added": task, "value": value, "at": time.time()})
            except BaseException as error:
                self.errors[task] = f"{type(error).__name__}: {error}"[:500]
            else:
                self.plan["add"].remove(call)
                self.real = REAL

    def give_up(self) -> None:
        """Tell of the calls that never went well."""
        for task, _ in self.plan["add"]:
            self.say({"added": task, "error": self.errors[task]})

    def next_leg(self) -> None:
        """Go to the next leg, or end."""
        self.legs.pop(0)
        if self.legs:
            self.travel.move_to(self.legs[0][0])
            return
        self.say({"over": True})
        if self.plan["end"]:
            os.kill(os.getpid(), self.plan["end"])
        raise SystemExit(0)


def recorder(clock: Clock, publish: Any) -> Callable[..., Any]:
    """Return what stands in for the function that publishes a task's message."""

    def record(producer: Any, name: str, message: Any, **options: Any) -> Any:
        now, (args, kwargs, *_) = time.time(), message.body
        for period in clock.plan["periods"]:
            clock.marks[name, repr(args), period] = now + period
        sent = {"sent": name, "at": now, "args": args, "kwargs": kwargs}
        clock.say({**sent, "expires": message.headers.get("expires")})
        return publish(producer, name, message, **options) if clock.plan["publish"] else None

    return record


def main() -> None:
    """Run beat to the end of the plan."""
    limits.apply(sys.argv[1])
    limits.search_here()
    plan = json.loads(sys.argv[2])
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        lines.write(json.dumps(what, default=repr) + "\n")
        lines.flush()

    clock = Clock(plan, say)
    beat, amqp = map(importlib.import_module, ("celery.beat", "celery.app.amqp"))
    sender = amqp.AMQP._create_task_sender
    amqp.AMQP._create_task_sender = lambda self: recorder(clock, sender(self))
    vars(beat)["time"] = clock
    conf = importlib.import_module(plan["module"]).app.conf
    say({"timezone": str(conf.timezone), "enable_utc": bool(conf.enable_utc)})
    sys.argv = ["celery", "-A", plan["module"], "beat"]
    sys.exit(importlib.import_module("celery.bin.celery").main())


if __name__ == "__main__":
    main()
