"""The live checks of exercise 1_1: a worker, a script, Flower, a shutdown, all real processes."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext, suppress

from grader.check import check, hint
from grader.expect import answers, returns
from grader.extras import need
from grader.history import instant
from grader.queues import left
from grader.services.browse import ask

GREETING = "Hello, Celery!"
# Seconds that a failing script may take, and what a busy machine may need to start Python at all.
PATIENCE, BOOT = 15, 5
FLOWER_SECONDS = 30
LOCAL = ("localhost", "127.0.0.1", "[::1]")
URL = re.compile(r"\b([\w+]+)://(?:[^\s/@]*@)?(\[[\d:a-f]+\]|[\w.*-]*)", re.IGNORECASE)
LONGEST = 2000
URLS = {"CELERY_BROKER_URL": "broker", "CELERY_RESULT_BACKEND": "backend"}
# What a client of the app would use, said in lines that no banner looks like.
TELL = """
from app import app
app.loader.import_default_modules()
for url in (app.connection_for_read().as_uri(), app.connection_for_write().as_uri()):
    print("\\nlab: broker", url)
print("\\nlab: backend", app.backend.as_uri(), flush=True)
"""
TOLD = re.compile(r"^lab: (broker|backend) (.*)$", re.MULTILINE)
# How far above its seconds the fastest of several calls may be, and how many calls there are.
SLACK, TRIES = 0.5, 5
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Script:
    """A running `python app.py`, or another program of the submission, and what it printed."""

    def __init__(self, lab, *arguments, closed=None, **extra):
        words = arguments or ("app.py",)
        self.lab, self.child = lab, lab.start_program(*words, extra=extra, closed=closed)

    @property
    def text(self):
        """What was printed so far."""
        return self.child.output.text

    def end(self, within=PATIENCE + BOOT):
        """Wait for the end and return the exit status, None if it does not come."""
        self.lab.until(lambda: not self.child.alive, within)
        if not self.child.alive:
            self.child.output.finish()
        return self.child.exit_code

    @property
    def lines(self):
        """The lines that say something."""
        return [line for line in without_ignored(self.text).splitlines() if line.strip()]

    @property
    def shown(self):
        """How it ended, and its last lines."""
        code = self.child.exit_code
        how = "still running" if code is None else f"exit status {code}"
        return "\n".join([how, *self.lines[-5:]])


def without_ignored(text):
    """Return the text without "Exception ignored in ..." and the traceback that follows it."""
    kept, ignoring = [], False
    for line in text.splitlines():
        if line.startswith("Exception ignored"):
            ignoring = True
        elif ignoring and not line.startswith((" ", "\t", "Traceback ")):
            ignoring = False  # the line that names the error, the last of its block
        elif not ignoring:
            kept.append(line)
    return "\n".join(kept)


@check
def test_hello(lab):
    """The worker connects to the broker of its environment; hello_world answers other processes."""
    missing = lab.unregistered(["hello_world"])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)

    assert lab.call("hello_world") == returns(GREETING)
    sent = lab.client.delay("hello_world")
    assert lab.fact(not sent.error, "client", error=sent.error)
    assert lab.finish([lab.adopt(sent.value, "hello_world")])[0] == returns(GREETING)


@check(after=test_hello)
def test_slow_hello(lab):
    """slow_hello answers after so many seconds, and takes fractions of one."""
    missing = lab.unregistered(["slow_hello"])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    seconds = round(lab.rng.uniform(0.31, 0.36), 2)

    assert lab.call("slow_hello", 0, within=10) == returns(GREETING)
    long, short = asked(lab, seconds)
    assert slow(lab, long >= seconds - 0.02, seconds, long), hint("fraction")
    # Rounded up it is a whole second each time; a busy machine is late, but not in call after call.
    for _ in range(TRIES - 1):
        if short <= seconds + SLACK:
            break
        short = asked(lab, seconds)[1]
    assert slow(lab, short <= seconds + SLACK, seconds, short), hint("fraction")


def slow(lab, holds, seconds, took):
    """Note how long slow_hello took."""
    return lab.fact(holds, "slow", seconds=seconds, took=f"{took:.2f}")


def asked(lab, seconds):
    """Ask for a slow greeting; return how long it took at most and at least."""
    began = time.monotonic()
    call = lab.call("slow_hello", seconds, within=10)
    elapsed = time.monotonic() - began
    assert call == returns(GREETING)
    # What the worker tells is its own word: nothing took longer than from the call to the answer.
    long, short = runtimes(lab, call) or (elapsed, elapsed)
    return min(long, elapsed), min(short, elapsed)


def runtimes(lab, call):
    """Return how many seconds a task took by the worker's own clock: from its first start, and run.

    A task that retries itself runs several times. None where the worker sends no events of it.
    """
    if not lab.until(lambda: lab.history.events_of(call.id, "task-succeeded")):
        return None
    started = lab.history.events_of(call.id, "task-started")
    ended = lab.history.events_of(call.id, "task-succeeded")[-1]
    with suppress(TypeError, ValueError, OverflowError):
        run = float(ended.get("runtime") or 0)
        if not started:
            return run, run
        whole = instant(ended.get("timestamp")) - instant(started[0].get("timestamp"))
        return max(whole, run), min(whole, run)
    return None


@check(after=test_hello)
def test_ping(lab):
    """`celery inspect ping` is answered by the worker."""
    words = ("-m", "celery", "-A", "app:app", "inspect", "-d", "lab@lab", "-t", "10", "ping")
    ping = Script(lab, *words)

    code = ping.end(within=30)

    assert lab.fact(code == 0 and "pong" in ping.text, "ping", seen=ping.shown)


@check(after=test_hello)
def test_localhost(lab):
    """Without the two variables, broker and result backend are on localhost."""
    missing = [tuple(URLS), *((name,) for name in URLS)]
    # The one that is set names a host elsewhere (RFC 5737): nothing to fall back on for the other.
    elsewhere = dict.fromkeys(URLS, "redis://192.0.2.1:6379/0")
    told = [Script(lab, "-c", TELL, **{**elsewhere, **dict.fromkeys(names)}) for names in missing]

    for names, script in zip(missing, told, strict=True):
        code, without = script.end(within=30), " / ".join(names)
        found = TOLD.findall(script.text)
        said = {"without": without, "seen": script.shown}
        assert lab.fact(code == 0 and found, "unset", **said), hint("required")
        for name in names:
            assert_on_localhost(lab, without, [uri for kind, uri in found if kind == URLS[name]])


def assert_on_localhost(lab, without, uris):
    """What the app uses instead of a variable that is not set is an address on localhost."""
    seen = " ".join(uris)[:LONGEST]
    backend = "disabled" not in seen and URL.findall(seen)
    assert lab.fact(backend, "no_backend", without=without, seen=seen), hint("no_backend")
    for scheme, host in URL.findall(seen):
        local = not host or host.lower() in LOCAL
        said = {"without": without, "seen": f"{scheme}://{host}"}
        assert lab.fact(local, "local", **said), hint("host")


@check(after=test_hello)
def test_script(lab):
    """`python app.py` prints the task's id, its state after completion and its result; exits 0."""
    with lab.tapped():
        # The worker takes the task and answers pings, but nobody runs it yet: whoever prints the
        # state too early prints PENDING.
        # A pool of threads can't be stopped without the worker that would answer the pings.
        with lab.frozen(lab.worker.pool) if lab.worker.pool else nullcontext():
            script = Script(lab)
            lab.until(lambda: sent_by(lab) or not script.child.alive, within=PATIENCE)
            # Short, so that a script with little patience still has most of it left.
            lab.until(lambda: sent_id(lab, script) or not script.child.alive, within=0.4)
        code = script.end()

    sent = sent_by(lab)
    assert lab.fact(sent, "script_sends", seen=script.shown), hint("sends_nothing")
    names = ", ".join(sorted({message.task for message in sent}))
    right = [message for message in sent if message.task == "app.hello_world"]
    assert lab.fact(right, "script_name", names=names, seen=script.shown), hint("other_name")
    assert lab.fact(code == 0, "script_status", seen=script.shown)
    shown_id = sent_id(lab, script)
    assert lab.fact(shown_id, "script_id", ids=[m.id for m in right], seen=script.shown)
    assert has_succeeded(lab, lab.adopt(shown_id, "hello_world"))
    assert lab.fact("SUCCESS" in script.text, "script_state", seen=script.shown), hint("too_early")
    assert lab.fact(GREETING in script.text, "script_result", seen=script.shown)


def sent_by(lab):
    """Return the messages of the submission's own tasks that were published under the tap."""
    own = {call.id for call in lab.history.calls}
    return [
        message
        for message in lab.history.messages
        if message.task.endswith("hello_world") and message.id not in own
    ]


def sent_id(lab, script):
    """Return the id of a published hello_world that the script has printed, "" if it has none."""
    return next((message.id for message in sent_by(lab) if message.id in script.text), "")


def has_succeeded(lab, call):
    """Whether the task returned the greeting; a script may have had the store forget it since."""
    done = lab.history.events_of
    lab.until(lambda: done(call.id, "task-succeeded") or not lab.publisher.fetch([call]))
    lab.publisher.fetch([call])
    return (call.reply is None and done(call.id, "task-succeeded")) or call == returns(GREETING)


@check(after=test_ping)
def test_flower(lab):
    """Flower runs with your app: its health check answers and its API lists the worker."""
    need("flower")
    port = lab.free_port()
    words = ("-m", "celery", "-A", "app:app", "flower", "--conf=/dev/null")
    place = ("--address=127.0.0.1", f"--port={port}")
    flower = Script(lab, *words, *place, FLOWER_UNAUTHENTICATED_API="true")
    seen = {}

    def asked(path, wanted):
        seen[path] = ask("GET", f"http://127.0.0.1:{port}{path}", within=10)
        return wanted(seen[path]) or not flower.child.alive

    def says(path, wanted):
        lab.until(lambda: asked(path, wanted), within=FLOWER_SECONDS)
        page = seen[path]
        said = {"path": path, "seen": page, "log": flower.shown if not page.status else ""}
        return lab.fact(wanted(page), "flower", **said)

    assert says("/healthcheck", lambda page: page.status == 200)
    assert says(
        "/api/workers?refresh=1", lambda page: page.status == 200 and "lab@lab" in page.json
    )
    flower.child.end()


# What waits, or ends a worker, has a lab of its own beside the others'.


class Failing:
    """`python app.py` where it can't succeed: nobody listens at the broker, or nobody works."""

    def __init__(self, lab):
        good = Script(lab)
        good.end()
        # What it prints then too says nothing of what is wrong.
        self.usual = {masked(line) for line in good.lines}
        lab.kill_worker()
        scheme = "redis" if lab.broker == "redis" else "amqp"
        nobody = f"{scheme}://127.0.0.1:{lab.free_port()}/"
        self.refused = Script(lab, closed={"CELERY_BROKER_URL": nobody})
        self.alone = Script(lab)
        for script in (self.refused, self.alone):
            script.end()
        lab.restart_worker()
        lab.dirty = False  # the new worker knows nothing of all this


def failing(lab):
    """Return what came of the two runs that can't succeed; they run once for both checks."""
    return lab.once("failing", lambda: Failing(lab))


def assert_fails_clearly(lab, script):
    """The script ended in time, with a failure, and said why in a line of its own."""
    usual = failing(lab).usual
    code = script.child.exit_code
    assert lab.fact(code is not None, "fails_late", seconds=PATIENCE, seen=script.shown), hint(
        "late"
    )
    assert lab.fact(code != 0, "fails_status", seen=script.shown), hint("status")
    said = [n for n in script.lines if not only_an_id(n) and masked(n) not in usual]
    no_traceback = not any(line.startswith("Traceback ") for line in script.lines)
    assert lab.fact(no_traceback and len(said) <= 3, "fails_line", seen=script.shown), hint("wall")
    assert lab.fact(said, "fails_silent", seen=script.shown), hint("silent")


def masked(line):
    """Return a line without what differs from run to run: ids and numbers."""
    return re.sub(r"\d+", "0", ID.sub("id", line)).strip()


def only_an_id(line):
    """Whether a line tells a task's id and little else, such as `sent <id>` or `id: <id>`."""
    rest, ids = ID.subn("", line)
    return bool(ids) and len(re.findall(r"[^\W_]+", rest)) <= 3 and len(rest.strip()) <= 24


@check(after=test_hello, lane="away")
def test_no_broker(lab):
    """With the broker refusing connections, `python app.py` says so in a line; exits non-zero."""
    assert_fails_clearly(lab, failing(lab).refused)


@check(after=test_hello, lane="away")
def test_no_worker(lab):
    """With no worker, `python app.py` says so in a line and exits non-zero within 15 s."""
    assert_fails_clearly(lab, failing(lab).alone)


class Shutdown:
    """A worker that gets SIGTERM while slow_hello runs, and what it leaves."""

    def __init__(self, lab):
        self.call = lab.send("slow_hello", 0.5, within=15)
        self.started = lab.until(
            lambda: lab.history.events_of(self.call.id, "task-started"), within=15
        )
        self.code = lab.stop_worker()
        lab.publisher.fetch([self.call])
        names = {lab.queue(f"app.{task}") for task in ("hello_world", "slow_hello")}
        url = lab.space.grader_broker

        def gone():
            self.left = left(lab.broker, url, names)
            return not self.left

        # RabbitMQ needs a moment to see that the worker's connection is closed.
        lab.until(gone, within=1)
        lab.restart_worker()
        lab.dirty = False  # the new worker knows nothing of the old one's end


def shutdown(lab):
    """Return what came of the shutdown; one serves all three checks."""
    return lab.once("shutdown", lambda: Shutdown(lab))


@check(after=test_slow_hello, lane="end")
def test_shutdown_result(lab):
    """SIGTERM while slow_hello runs: its result is stored all the same."""
    end = shutdown(lab)

    assert lab.fact(end.started, "shutdown_started")
    assert end.call == answers()
    assert end.call == returns(GREETING)


@check(after=test_slow_hello, lane="end")
def test_shutdown_status(lab):
    """SIGTERM while slow_hello runs: the worker ends by itself with exit status 0."""
    code = shutdown(lab).code

    assert lab.fact(code == 0, "shutdown_status", seen="-" if code is None else code)


@check(after=test_slow_hello, lane="end")
def test_shutdown_rest(lab):
    """SIGTERM while slow_hello runs: nothing is left unacknowledged or queued."""
    rest = shutdown(lab).left

    assert lab.fact(not rest, "shutdown_rest", seen=rest)
