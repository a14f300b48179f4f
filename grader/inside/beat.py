"""Runs the ordinary `celery beat` of a submission in a time that the grader makes.

usage: beat.py LIMITS PLAN

The plan is a JSON object: the submission's `module`, and `begin`, the epoch second to begin with.
One JSON object a line goes out for each thing that happens; before each sleep of beat's the grader
is asked, and answers on standard input with one of
    {"call": [task, args]}   call this task here and tell what it returned; another answer follows
    {"wait": s, "to": at}    wait for so many real seconds, then it is that moment
    {"end": number}          the time is over: end by that signal, by itself if it is 0
How long beat lives, and what counts, only the grader knows. Python's clock (time, datetime) moves
only when beat sleeps, so a fortnight takes seconds.
"""

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits

MOMENT = 0.001  # that a look at the clock takes: in a clock that stands still nothing becomes due
Say = Callable[[dict[str, Any]], None]


class Clock:
    """Stands in for the module `time` in celery.beat."""

    def __init__(self, module: str, begin: float, orders: TextIO, say: Say) -> None:
        import time_machine

        self.module, self.orders, self.say = module, orders, say
        self.travel = time_machine.travel(begin, tick=False).start()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        """Beat looks at this clock after each tick."""
        self.travel.shift(MOMENT)
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let the time pass, as the grader says."""
        self.say({"sleep": seconds, "at": time.time()})
        order = self.next()
        while "call" in order:
            self.say({**self.call(*order["call"]), "at": time.time()})
            order = self.next()
        if "end" in order:
            self.end(order["end"])
        threading.Event().wait(order["wait"])
        self.travel.move_to(order["to"])

    def next(self) -> dict[str, Any]:
        """Return the grader's next order; a grader that is gone wants no more."""
        return dict(json.loads(self.orders.readline() or '{"end": 0}'))

    def call(self, task: str, args: list[Any]) -> dict[str, Any]:
        """Call a task of the submission's; beat may not be ready for it yet."""
        try:
            # Not called directly: a task may want to know the id of its own call.
            value = sys.modules[self.module].app.tasks[task].apply(args=args, throw=True).get()
        except BaseException as error:
            return {"called": task, "error": f"{type(error).__name__}: {error}"[:500]}
        return {"called": task, "value": value}

    def end(self, number: int) -> None:
        """End beat."""
        if number:
            os.kill(os.getpid(), number)
        raise SystemExit(0)


def recorder(say: Say, publish: Any) -> Callable[..., Any]:
    """Return what stands in for the function that publishes a task's message."""

    def record(producer: Any, name: str, message: Any, **options: Any) -> Any:
        (args, kwargs, *_), headers = message.body, message.headers
        sent = {"sent": name, "at": time.time(), "args": args, "kwargs": kwargs}
        say({**sent, "id": headers.get("id"), "expires": headers.get("expires")})
        return publish(producer, name, message, **options)

    return record


def main() -> None:
    """Run beat until the grader ends it."""
    limits.apply(sys.argv[1])
    limits.search_here()
    plan = json.loads(sys.argv[2])
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def say(what: dict[str, Any]) -> None:
        lines.write(json.dumps(what, default=repr) + "\n")
        lines.flush()

    clock = Clock(plan["module"], plan["begin"], orders, say)
    beat, amqp = map(importlib.import_module, ("celery.beat", "celery.app.amqp"))
    sender = amqp.AMQP._create_task_sender
    amqp.AMQP._create_task_sender = lambda self: recorder(say, sender(self))
    vars(beat)["time"] = clock
    conf = importlib.import_module(plan["module"]).app.conf
    say({"timezone": str(conf.timezone), "enable_utc": bool(conf.enable_utc)})
    sys.argv = ["celery", "-A", plan["module"], "beat"]
    sys.exit(importlib.import_module("celery.bin.celery").main())


if __name__ == "__main__":
    main()
