"""What each attack gets as `attack_kit`: what a spy could know of the ground, and a voice.

An attack says `ran` when its code runs, `won` when it got what it was after, and shows what it
found as `loot`. The runner listens to the processes' output: an attack that never ran proves
nothing, and one that says `won` has found a hole. Nothing is imported here but os and sys, because
some attacks bring modules of the standard library's names.
"""

import os
import sys

FACTS = {}
LONGEST = 100_000


def _say(word, what):
    text = f"\n[{FACTS['nonce']}] {word} {what}\n".encode("utf-8", "replace")
    try:
        os.write(2, text)
    except OSError:
        pass


def ran(what=""):
    """Say that the attack's code runs."""
    _say("ran", what)


def won(what):
    """Say that the attack got what it was after."""
    _say("won", what)


def loot(what):
    """Show what was found: the runner looks for secrets in it."""
    _say("loot", str(what)[:LONGEST])


def tried(function, *args, **kwargs):
    """Call something that should be refused; return what it returned, None if it was refused."""
    try:
        return function(*args, **kwargs)
    except BaseException:
        return None


def read(path, size=LONGEST):
    """Return a file's first bytes as text, "" if it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def is_worker():
    """Whether this process is the worker, not a client."""
    return "worker" in sys.argv


def on_rabbitmq():
    """Whether the broker is RabbitMQ; some checks give a process a Redis of its own."""
    return os.environ["CELERY_BROKER_URL"].startswith("amqp")


def grader_in_sight():
    """Whether the grader's process can be seen; its number may be one of our own inside."""
    cmdline = read(f"/proc/{FACTS['grader']}/cmdline")
    return bool(cmdline) and "/inside/" not in cmdline and "bwrap" not in cmdline


def every_task(app, function):
    """Have each task of the app run this function instead, which takes any arguments."""
    for name, task in app.tasks.items():
        if not name.startswith("celery."):
            task.run = function


def redis():
    """Return a client of the run's own Redis, with the rights that the submission has."""
    from redis import Redis

    return Redis.from_url(os.environ["CELERY_RESULT_BACKEND"])


def beside(function):
    """Run a function in a thread beside everything else."""
    import threading

    threading.Thread(target=function, daemon=True).start()
