"""grader/runner.py: what checks and submissions do, well or badly, becomes the right verdict."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from grader import client, crew, publisher, runner
from grader.errors import BadSubmission, LabFault, SubmissionFault
from grader.events import Listener
from grader.exercise import load
from grader.history import Call, History
from grader.home import Home
from grader.process import wait_until
from grader.runner import Run, grade
from grader.sandbox import Sandbox
from grader.stack.provider import Stack
from grader.stack.redis import connect
from grader.submission import Submission
from grader.tap import open_tap
from grader.verdict import Status, Verdict

PASSED, FAILED, BLOCKED, UNKNOWN = Verdict

START = "import os, signal, sys\nfrom celery import Celery\napp = Celery('tiny')\n"
WORK = (
    START
    + """
@app.task
def add(x, y):
    return x + y

@app.task
def forever():
    signal.pause()

@app.task
def pid():
    return os.getpid()
"""
)
HEAD = """
from grader.check import check, hint
from grader.errors import LabFault
from grader.expect import answers, fact, returns
from grader.words import NOTHING

SEEN = {}

def turn(name):
    SEEN[name] = SEEN.get(name, 0) + 1
    return SEEN[name]
"""
CHECKS = (
    HEAD
    + '''
@check
def test_passes(lab):
    """One {and} two are {three}."""
    assert lab.call("add", 1, 2) == returns(3)

@check(after=test_passes)
def test_fails(lab):
    """One and two are four."""
    assert lab.call("add", 1, 2) == returns(4), hint("off")

@check(after=(test_passes, test_fails))
def test_blocked(lab):
    """It builds on four."""

@check(after=test_blocked)
def test_blocked_too(lab):
    """It builds on what was not tried."""

@check
def test_bare(lab):
    """The check compares nothing."""
    turn("bare")
    assert lab is None

@check
def test_breaks(lab):
    """The check itself is broken."""
    turn("breaks")
    raise KeyError("a mistake of the check")

@check(after=test_breaks)
def test_after_unknown(lab):
    """It builds on a broken check."""

@check
def test_second_try(lab):
    """The lab fails once."""
    if turn("second_try") == 1:
        raise LabFault("redis_not_up", line="too late")
    assert lab.call("add", 2, 2) == returns(4)

@check
def test_other_hint(lab):
    """It names a hint that nobody has written."""
    assert lab.call("add", 1, 1) == returns(3), hint("unwritten")

@check
def test_unsaid(lab):
    """Its sentence lacks what the placeholder stands for."""
    assert lab.fact(False, "seen", other=1)

@check
def test_hangs(lab):
    """A task that never returns."""
    SEEN["old"] = lab
    assert lab.call("forever", within=0.2) == answers()

@check
def test_fresh(lab):
    """The check after it."""
    SEEN["new"] = lab
    assert lab.call("add", 3, 4) == returns(7)
'''
)
ONE = (
    HEAD
    + '''
@check
def test_first(lab):
    """One and two are three."""
    assert lab.call("add", 1, 2) == returns(3)

@check
def test_second(lab):
    """It builds on nothing."""
    assert lab.call("add", 2, 2) == returns(4)

@check(after=test_second)
def test_third(lab):
    """It builds on the second."""
'''
)
# For a submission whose `add` gives no answer: nothing is waited for long.
SHORT = ONE.replace('"add", 1, 2) == returns(3)', '"add", 1, 2, within=0.3) == answers()')
SHORT = SHORT.replace('"add", 2, 2) == returns(4)', '"pid") == answers()')


def write(folder, checks, points=10, brokers='"redis"'):
    """Write an exercise with these checks into a new folder and return it."""
    ids = [line[9:-6] for line in checks.splitlines() if line.startswith("def test_")]
    rows = [
        f"[criteria.{id}]\npoints = {points}\nzh = '{id} {{}}'\n"
        f"bonus = {str(id == 'fresh').lower()}\n"
        "hints.default = { en = 'Why?', zh = '？' }\nhints.off = { en = 'Off?', zh = '偏？' }\n"
        for id in ids
    ]
    folder.mkdir()
    (folder / "exercise.toml").write_text(
        f"stars = 1\nminutes = 1\nmodule = 'tiny'\nbrokers = [{brokers}]\nfiles = ['tiny.py']\n"
        "title = { en = 'Tiny', zh = '小' }\n"
        + "\n".join(rows)
        + "[words.seen]\nexpected = { en = '{a}', zh = '{a}' }\nobserved = { en = 'x', zh = 'x' }\n"
    )
    (folder / "test_tiny.py").write_text(checks)
    return load(folder)


def work(folder, text=WORK):
    """Write a submission and return it."""
    folder.mkdir()
    (folder / "tiny.py").write_text(text)
    return Submission.at(folder)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The servers of all tests here, in a temporary folder of their own."""
    temp = tmp_path_factory.mktemp("temp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temp))
        patch.setattr(runner, "RUNS", tmp_path_factory.mktemp("runs"))
        try:
            with Home("test") as home, Stack(home) as opened:
                yield opened
            assert list(temp.iterdir()) == []
        finally:
            # pytest itself can't remove folders as deep as one test makes them.
            subprocess.run(["rm", "-rf", str(temp)], check=True)


@pytest.fixture(scope="module")
def graded(stack, tmp_path_factory):
    """The result of one run of all the checks above, and what they have noted."""
    folder = tmp_path_factory.mktemp("graded")
    exercise, told = write(folder / "verdicts", CHECKS), []
    submission = work(folder / "work")
    result = grade(exercise, submission, ["redis"], stack, 7, progress=told.append)
    seen = exercise.checks["passes"].function.__globals__["SEEN"]
    found = {finding.id: finding for finding in result.findings}
    return SimpleNamespace(result=result, told=told, seen=seen, **{"found": found})


# Verdicts


def test_every_check_has_its_verdict(graded):
    """Passed, failed, blocked and unknown come as the checks went, in their order."""
    assert {id: finding.verdict for id, finding in graded.found.items()} == {
        "passes": PASSED,
        "fails": FAILED,
        "blocked": BLOCKED,
        "blocked_too": BLOCKED,
        "bare": UNKNOWN,
        "breaks": UNKNOWN,
        "after_unknown": UNKNOWN,
        "second_try": PASSED,
        "other_hint": FAILED,
        "unsaid": UNKNOWN,
        "hangs": FAILED,
        "fresh": PASSED,
    }
    assert tuple(graded.told) == graded.result.findings


def test_what_failed_is_explained(graded):
    """A failed criterion says what was expected and seen, and the hint that the check named."""
    finding = graded.found["fails"]

    words = [text.render("en") for text in (finding.expected, finding.observed, finding.hint)]
    assert words == ["add(1, 2) returns 4", "it returned 3", "Off?"]
    assert finding.hint.render("zh") == "偏？"
    assert not graded.found["passes"].observed and not graded.found["passes"].hint


def test_a_hint_that_nobody_wrote_is_the_default(graded):
    """A check that names an unwritten hint still gives the student one."""
    assert graded.found["other_hint"].hint.render("en") == "Why?"


def test_blocked_names_what_it_waits_for(graded):
    """A blocked criterion says which one has to pass first."""
    assert "fails" in graded.found["blocked"].observed.render("en")
    assert "blocked" in graded.found["blocked_too"].observed.render("zh")


def test_the_graders_own_errors_are_never_the_students(graded):
    """A broken check is tried twice, then unknown, and says that it is the grader's mistake."""
    for id, words in (("breaks", "KeyError: 'a mistake of the check'"), ("bare", "AssertionError")):
        said = graded.found[id].observed.render("en")
        assert graded.seen[id] == 2
        assert words in said and "the grader itself failed" in said and "test_tiny.py:" in said
    assert graded.found["after_unknown"].observed == graded.found["breaks"].observed
    assert "KeyError: 'a'" in graded.found["unsaid"].observed.render("en")


def test_a_lab_that_fails_once_costs_nothing(graded):
    """When the second try passes, the first is forgotten."""
    assert graded.seen["second_try"] == 2
    assert not graded.found["second_try"].observed


def test_a_task_that_never_returns_fails_alone(graded):
    """No answer within the limit is said, and the next check gets a lab without that task."""
    said = graded.found["hangs"].observed.render("en")

    assert said == "forever() gave no answer within 0.2 s"
    old, new = graded.seen["old"], graded.seen["new"]
    assert old is not new and old.worker.child.pid != new.worker.child.pid
    assert not old.worker.alive and not new.worker.alive


def test_titles_keep_their_braces(graded):
    """A title is no template in either language."""
    assert graded.found["passes"].title.render("en") == "One {and} two are {three}."
    assert graded.found["passes"].title.render("zh") == "passes {}"


def test_the_sum_is_right(graded):
    """Core and bonus are summed apart; what is unknown makes the exit status 3."""
    result = graded.result

    assert (result.score, result.max_score, result.bonus, result.max_bonus) == (20, 110, 10, 10)
    assert (result.status, result.exit_status, result.seed) == (Status.GRADED, 3, 7)
    assert result.isolation and not result.note
    assert graded.found["hangs"].seconds >= 0.2


def test_what_was_seen_is_saved(graded):
    """The history of the last lab is on disk afterwards."""
    saved = json.loads((runner.RUNS / "verdicts-redis.json").read_text())

    assert [call["task"] for call in saved["calls"]] == ["tiny.add"]


# Submissions that do not start


@pytest.fixture
def judge(stack, tmp_path):
    """Grade a submission's text against three simple checks; return the result."""

    def judging(text, box=None, checks=ONE):
        exercise = write(tmp_path / "exercise", checks)
        return grade(exercise, work(tmp_path / "work", text), ["redis"], stack, 1, box=box)

    return judging


def assert_ungradable(result, words):
    """Assert that the first criterion says what is wrong and all others wait for it."""
    first, *others = result.findings

    assert [f.verdict for f in result.findings] == [FAILED, BLOCKED, BLOCKED]
    assert words in first.observed.render("en") and first.hint and first.expected
    assert first.observed.render("zh") != first.observed.render("en")
    assert all("first" in f.observed.render("en") for f in others[:1])
    assert (result.status, result.exit_status, result.score) == (Status.UNGRADABLE, 1, 0)
    assert words in result.note.render("en")


# Writes a greeting of its own wherever it can.
FORGE = """
for number in range(3, 20):
    try:
        os.write(number, b'{"value": {"tasks": [], "routes": [], "result_key": ""}}\\n')
    except OSError:
        pass
"""
BROKEN = {
    "syntax": ("def add(x, y:\n", "SyntaxError"),
    "raises": (START + "raise RuntimeError('no \\ud800 luck {here}')\n", "RuntimeError: no"),
    "exits": (START + "sys.exit('bye')\n", "SystemExit: bye"),
    "no module": (START + "import flusk\n", "ModuleNotFoundError: No module named 'flusk'"),
    "no app": (START.replace("app =", "celery ="), "module 'tiny' has no attribute 'app'"),
    "no celery": ("app = 3\n", "AttributeError"),
    "dies": (START + "print('a last word', flush=True)\nos._exit(9)\n", "exit status 9"),
    "killed": (START + "os.kill(os.getpid(), signal.SIGKILL)\n", "signal SIGKILL"),
    "forges": (START + FORGE, "something other than the lab's JSON"),
    "worker dies": (
        WORK + "if 'worker' in sys.argv:\n    print('a last word', flush=True)\n    os._exit(3)\n",
        "a last word",
    ),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_start_is_ungradable(judge, text, words):
    """The first criterion fails with the reason; the others wait for it and try nothing."""
    assert_ungradable(judge(text), words)


def test_the_tracebacks_last_line_is_shown(judge):
    """What Python says last about the student's own line is in the words for the student."""
    said = judge(START + "number = int('four')\n").findings[0].observed.render("en")

    assert said.splitlines()[-1] == "ValueError: invalid literal for int() with base 10: 'four'"
    assert "number = int('four')" in said and 'tiny.py", line 4' in said


def test_an_import_that_never_ends_is_said(judge, monkeypatch):
    """A client process that hangs at import is given up after its limit."""
    monkeypatch.setattr(crew, "Client", functools.partial(client.Client, limit=0.5))

    assert_ungradable(judge(START + "signal.pause()\n"), "0.5")


def test_a_worker_that_never_starts_is_said(judge, monkeypatch):
    """A worker that hangs at import takes no task, and is given up after its time."""
    monkeypatch.setattr(crew, "BOOT_SECONDS", 0.5)

    assert_ungradable(judge(WORK + "if 'worker' in sys.argv:\n    signal.pause()\n"), "0.5")


def test_a_module_that_is_missing_is_said(stack, tmp_path):
    """A folder with other work than the exercise's is told which module it lacks."""
    exercise = write(tmp_path / "missing", ONE)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "other.py").write_text(WORK)

    assert_ungradable(grade(exercise, Submission.at(folder), ["redis"], stack, 1), "named 'tiny'")


# Submissions that start


def test_an_app_may_have_another_name(judge):
    """The app's own name, its queue and its result keys are the student's choice."""
    settings = "app.conf.task_default_queue = 'mine'\n"
    settings += "app.conf.result_backend_transport_options = {'global_keyprefix': '{tag}_'}\n"
    text = WORK.replace("Celery('tiny')", "Celery('calculator of ana')") + settings

    assert [f.verdict for f in judge(text).findings] == [PASSED] * 3


def test_a_worker_that_dies_at_a_task_fails_that_check(judge):
    """A task that ends the whole worker costs the criterion that met it; the next one is tried."""
    text = WORK.replace("return x + y", "os.kill(os.getppid(), signal.SIGKILL); signal.pause()")
    result = judge(text, checks=SHORT)

    assert [f.verdict for f in result.findings] == [FAILED, PASSED, PASSED]
    assert "the worker ended by itself" in result.findings[0].observed.render("en")
    assert (result.status, result.exit_status, bool(result.note)) == (Status.GRADED, 1, False)


KILLS_REDIS = (
    WORK.replace("return x + y", "end_redis()")
    + """
def end_redis():
    import psutil
    from urllib.parse import urlsplit
    port = urlsplit(os.environ["CELERY_BROKER_URL"]).port
    for process in psutil.process_iter():
        try:
            if any(c.laddr.port == port for c in process.net_connections() if c.status == "LISTEN"):
                process.kill()
        except psutil.Error:
            pass
    signal.pause()
"""
)


def test_a_submission_that_ends_its_own_redis_fails(judge):
    """Destroying the private server is the submission's failure, not the lab's fault."""
    result = judge(KILLS_REDIS, box=Sandbox("limits"))

    said = [f.observed.render("en") for f in result.findings]
    assert [f.verdict for f in result.findings] == [FAILED, FAILED, BLOCKED], said
    for finding in result.findings[:2]:
        assert "ended the redis server" in finding.observed.render("en")
    assert result.exit_status == 1


def test_redis_refuses_administrators_commands(judge):
    """SHUTDOWN, FLUSHALL and the like are not allowed to a submission: the error is its own."""
    body = "app.backend.client.execute_command('SHUTDOWN', 'NOSAVE')"
    said = judge(WORK.replace("return x + y", body)).findings[0]

    assert said.verdict is FAILED and "NoPermission" in said.observed.render("en")


DEEP = WORK.replace(
    "return x + y",
    # A name of each process's own: the second call may be another child's.
    "for _ in range(1500):\n        name = str(os.getpid())\n"
    "        os.mkdir(name)\n        os.chdir(name)\n"
    "    return x + y",
)


def test_folders_without_end_do_not_stop_the_grader(judge, stack):
    """A submission that makes its copy too deep to remove is graded, and removed in the end."""
    findings = judge(DEEP).findings

    said = [f.observed.render("en") for f in findings]
    assert [f.verdict for f in findings] == [PASSED, PASSED, PASSED], said


# Evidence that a submission can reach


@pytest.fixture(scope="module")
def space(stack):
    """A namespace without a submission."""
    opened = stack.open("redis")
    yield opened
    opened.close()


def until(condition):
    return wait_until(condition, 20, lambda: AssertionError("too late"))


def test_garbage_does_not_deafen_the_listener(space):
    """What is sent to the events' exchange and is no event is passed over, whatever it is."""
    from celery import Celery
    from celery.events import get_exchange

    heard = []
    listener = Listener(space.grader_broker, heard)
    listener.ready()
    app = Celery("test", broker=space.grader_broker, set_as_current=False)
    deep = functools.reduce(lambda inner, _: [inner], range(300), "x")
    garbage = ["text", 3, None, [], [1], {}, {"type": "x", "clock": "y"}, {"type": "x", "y": deep}]
    with app.connection_for_write() as connection, connect(space.grader_backend) as redis:
        producer = connection.Producer(exchange=get_exchange(connection))
        for body in garbage:
            producer.publish(body, routing_key="task.x", serializer="json")
        producer.publish(b"\x80", "task.x", content_type="application/x-python-serialize")
        producer.publish("{", "task.x", content_type="application/json")
        for raw in ("{}", "[]", "3", "x", b"\xff"):
            redis.publish("/0.celeryev", raw)
        for uuid in ("1", "2"):
            producer.publish({"type": "task-x", "uuid": uuid}, "task.x", serializer="json")
    app.close()

    until(lambda: listener.error or [e for e in heard if e.get("uuid") == "1"])
    listener.close()
    assert listener.error is None and {e.get("uuid") for e in heard} <= {"1", "2"}


def test_garbage_does_not_blind_the_tap(space):
    """What is pushed to a queue and is no message is passed over; odd texts are read right."""
    seen = []
    odd = 'it\'s "quoted" \\ 练\n\x00\x7f'
    with connect(space.grader_broker) as redis:
        with open_tap("redis", space.grader_broker, seen) as tap:
            for payload in (b"\xff\xfe", "text", "[]", "3", "{}", '{"headers": 3}', "[" * 9999):
                redis.lpush("celery", payload)
            redis.lpush("celery", "a", "b")
            redis.lpush("celery", json.dumps({"headers": {"task": 1}}))
            redis.lpush("celery", json.dumps({"headers": {"task": "t", "id": "1", "retries": "x"}}))
            message = {"body": odd, "headers": {"task": "t.ö", "id": "2", "retries": 3}}
            for ascii in (True, False):
                redis.lpush("celery", json.dumps(message, ensure_ascii=ascii))
            until(lambda: tap.error or len(seen) == 2)
        redis.delete("celery")

    assert tap.error is None
    assert [(m.task, m.id, m.queue, m.retries, m.body) for m in seen] == [
        ("t.ö", "2", "celery", 3, odd)
    ] * 2


class Stumbling:
    """A result backend whose connection is lost so many times before it answers."""

    def __init__(self, losses):
        self.losses = losses

    def mget(self, keys):
        self.losses -= 1
        if self.losses >= 0:
            raise ConnectionError("reset by peer")
        return [b'{"status": "SUCCESS", "result": 1}' for _ in keys]


@pytest.mark.parametrize("losses", [3, 10**9])
def test_a_lost_connection_is_tried_again(monkeypatch, losses):
    """A connection that comes back is no matter; one that does not is an error in the end."""
    monkeypatch.setattr(publisher, "LOST_SECONDS", 0.1)
    sender = publisher.Publisher.__new__(publisher.Publisher)
    sender.backend, sender.result_key = Stumbling(losses), "{prefix}{}"
    call = Call("1", "tiny.add")

    with pytest.raises(ConnectionError) if losses > 3 else contextlib.nullcontext():
        assert sender.wait([call], 20, lambda: True)
    assert (call.reply is None) is (losses > 3)


# The runner alone


class Idle:
    """A lab that does nothing and counts how often it was made and closed."""

    made = 0

    def __init__(self, *arguments):
        type(self).made += 1
        self.dirty, self.closed = False, 0
        self.history = History()
        self.worker = SimpleNamespace(alive=True)

    def judging(self):
        return contextlib.nullcontext()

    def save(self, path):
        raise OSError(30, "Read-only file system", str(path))

    def close(self):
        self.closed += 1


@pytest.fixture
def quick(monkeypatch, tmp_path, request):
    """Make a Run with a lab that does nothing."""
    monkeypatch.setattr(runner, "Lab", Idle)
    monkeypatch.setattr(Idle, "made", 0)

    def making(checks, **options):
        name = f"{request.node.name}-{len(list(tmp_path.iterdir()))}"
        exercise = write(tmp_path / name, HEAD + checks, points=options.pop("points", 10))
        return Run(exercise, Submission(Path("x")), "redis", None, 1, Sandbox("limits"), **options)

    return making


def one(body):
    return f'@check\ndef test_it(lab):\n    """It is."""\n    {body}\n'


@pytest.mark.parametrize(("points", "shares", "each"), [(10, 2, 5), (10, 1, 10), (10, 4, 2.5)])
def test_points_are_shared_among_brokers(quick, points, shares, each):
    """Each broker's finding has its part of the points, a whole number where it is one."""
    finding = quick(one("pass"), points=points, shares=shares).finding("it")

    assert finding.points == finding.max_points == each
    assert isinstance(finding.points, int) is (each != 2.5)


def test_a_result_on_two_brokers_adds_up(monkeypatch, tmp_path):
    """Each of two brokers has a finding with half of the points, and the sum is the whole."""
    monkeypatch.setattr(runner, "Lab", Idle)
    exercise = write(tmp_path / "two", HEAD + one("pass"), brokers='"redis", "rabbitmq"')
    brokers = ["redis", "rabbitmq"]

    result = grade(exercise, Submission(Path("x")), brokers, None, 1, box=Sandbox("limits"))
    assert [(f.broker, f.points) for f in result.findings] == [("redis", 5), ("rabbitmq", 5)]
    assert (result.score, result.max_score, result.exit_status) == (10, 10, 0)
    assert result.brokers == ("redis", "rabbitmq")


class OnlyRedis(Idle):
    """A lab whose submission does not start on the other broker."""

    def __init__(self, exercise, submission, broker, *more):
        if broker != "redis":
            raise SubmissionFault("worker_silent", seconds=1)
        super().__init__()


def test_a_submission_that_starts_on_one_broker_is_graded(monkeypatch, tmp_path):
    """What does not start on RabbitMQ only is graded, with the points of Redis."""
    monkeypatch.setattr(runner, "Lab", OnlyRedis)
    exercise = write(tmp_path / "half", HEAD + one("pass"), brokers='"redis", "rabbitmq"')

    result = grade(
        exercise, Submission(Path("x")), exercise.brokers, None, 1, box=Sandbox("limits")
    )
    assert [f.verdict for f in result.findings] == [PASSED, FAILED]
    assert (result.status, result.score, bool(result.note)) == (Status.GRADED, 5, False)


def test_a_check_runs_once_however_often_asked(quick):
    """Findings are kept, and one lab serves all checks that leave it in order."""
    run = quick(one("turn('it')") + one("pass").replace("it(", "other("))

    assert run.finding("it") is run.finding("it")
    run.finding("other")
    assert (run.exercise.checks["it"].function.__globals__["SEEN"], Idle.made) == ({"it": 1}, 1)


@pytest.mark.parametrize("mark", ["lab.dirty = True", "lab.worker.alive = False"])
def test_a_disturbed_lab_is_replaced(quick, mark):
    """A lab that a check left dirty, or whose worker is gone, is closed, and a new one made."""
    run = quick(one(mark) + one("SEEN['lab'] = lab").replace("it(", "other("))
    run.finding("it")
    before = run._lanes[""].lab

    run.finding("other")
    assert (before.closed, Idle.made) == (1, 2)


def test_only_what_is_asked_for_is_judged(monkeypatch, tmp_path):
    """`only` names criteria; what they build on runs too, but is no finding of its own."""
    monkeypatch.setattr(runner, "Lab", Idle)
    checks = one("turn('it')") + '@check(after=test_it)\ndef test_on(lab):\n    """On."""\n'
    exercise = write(tmp_path / "only", HEAD + checks + one("turn('no')").replace("it(", "no("))

    result = grade(
        exercise, Submission(Path("x")), ["redis"], None, 1, only=["on"], box=Sandbox("limits")
    )
    assert [(f.id, f.verdict) for f in result.findings] == [("on", PASSED)]
    assert exercise.checks["it"].function.__globals__["SEEN"] == {"it": 1}


def test_a_bad_submission_ends_the_run(quick, monkeypatch):
    """What can't be graded at all is no criterion's failure: the error goes to the caller."""

    def refuse(*_):
        raise BadSubmission("submission_missing", path="x")

    monkeypatch.setattr(runner, "Lab", refuse)
    with pytest.raises(BadSubmission):
        quick(one("pass")).finding("it")


def test_an_interrupt_is_not_swallowed(quick):
    """Ctrl-C in the middle of a check ends the run and is no verdict."""
    run = quick(one("raise KeyboardInterrupt"))

    with pytest.raises(KeyboardInterrupt):
        run.finding("it")
    assert run.findings == {}


def test_a_lab_that_never_opens_is_unknown(quick, monkeypatch):
    """Two attempts without a lab make the criterion unknown, and the next one tries again."""

    def fail(*_):
        fail.times += 1
        raise LabFault("redis_not_up", line="no memory")

    fail.times = 0
    monkeypatch.setattr(runner, "Lab", fail)
    run = quick(one("pass") + one("pass").replace("it(", "other("))

    assert [run.finding(id).verdict for id in ("it", "other")] == [UNKNOWN, UNKNOWN]
    assert fail.times == 4 and "no memory" in run.findings["it"].observed.render("en")


def test_a_stale_difference_explains_nothing(quick):
    """A difference that one check noted does not explain the next one's bare assert."""
    run = quick(one("_ = 3 == returns(4)") + one("assert False").replace("it(", "other("))
    with contextlib.suppress(AttributeError):
        run.finding("it")

    assert run.finding("other").verdict is UNKNOWN


def test_inputs_depend_on_the_seed_and_the_criterion_alone(quick):
    """The same seed draws the same, whichever checks ran before; another criterion draws others."""
    body = one("SEEN['it'] = lab.rng.random()")
    checks = body + body.replace("test_it(", "test_other(").replace("['it']", "['other']")
    first, second = quick(checks), quick(checks)
    first.finding("it")
    first.finding("other")
    second.finding("other")

    drawn, again = (r.exercise.checks["it"].function.__globals__["SEEN"] for r in (first, second))
    assert drawn["other"] == again["other"] != drawn["it"]


def test_a_history_that_cannot_be_saved_changes_no_verdict(quick):
    """A read-only project folder loses the history, not the result; closing twice is harmless."""
    run = quick(one("pass"))
    run.finding("it")
    lab = run._lanes[""].lab

    run.close()
    run.close()
    assert lab.closed == 1 and run.findings["it"].verdict is PASSED


def test_a_lab_that_cannot_be_closed_is_not_used_again(quick, monkeypatch):
    """An error while closing goes to the caller once; the next check gets a new lab."""
    run = quick(one("lab.dirty = True") + one("pass").replace("it(", "other("))
    run.finding("it")
    run._lanes[""].lab.close = lambda: 1 / 0

    assert run.finding("other").verdict is PASSED
    assert Idle.made == 2


MEET = """
import threading
FIRST, SECOND = threading.Event(), threading.Event()

@check
def test_base(lab):
    \"\"\"Base.\"\"\"
    SEEN["base"] = lab

@check(after=test_base)
def test_near(lab):
    \"\"\"Near.\"\"\"
    SEEN["near"] = lab
    FIRST.set()
    assert SECOND.wait(20)

@check(after=test_base, lane="far")
def test_far(lab):
    \"\"\"Far.\"\"\"
    SEEN["far"] = lab
    SECOND.set()
    assert FIRST.wait(20)
"""


def test_lanes_overlap_in_labs_of_their_own(quick):
    """Two checks that wait for each other both pass when they are in different lanes."""
    run = quick(MEET)
    run.begin(["base", "near", "far"])

    assert [run.finding(id).verdict for id in ("base", "near", "far")] == [PASSED] * 3
    seen = run.exercise.checks["base"].function.__globals__["SEEN"]
    assert seen["base"] is seen["near"] is not seen["far"]
    run.close()
    assert seen["near"].closed == seen["far"].closed == 1


def test_a_lane_waits_for_what_it_builds_on(quick):
    """What fails without a lane blocks the check in a lane, which then has no lab at all."""
    run = quick(MEET.replace('SEEN["base"] = lab', "assert fact(False, NOTHING, NOTHING)"))
    run.begin(["far"])

    assert (run.finding("far").verdict, Idle.made) == (BLOCKED, 1)


def test_a_lane_alone_needs_no_beginning(quick):
    """A check in a lane that is simply asked for runs like any other."""
    run = quick(one("pass").replace("@check", '@check(lane="far")'))

    assert run.finding("it").verdict is PASSED


def test_an_error_in_a_lane_goes_to_who_asks(quick, monkeypatch):
    """What can't be graded at all reaches the caller also when a lane met it first."""

    def refuse(*_):
        raise BadSubmission("submission_missing", path="x")

    monkeypatch.setattr(runner, "Lab", refuse)
    run = quick(one("pass").replace("@check", '@check(lane="far")'))
    run.begin(["it"])
    with pytest.raises(BadSubmission):
        run.finding("it")


SLOW = """
@check
def test_well(lab):
    \"\"\"Well.\"\"\"

@check
def test_badly(lab):
    \"\"\"Badly.\"\"\"
    assert fact(False, NOTHING, NOTHING)

@check
def test_last(lab):
    \"\"\"Last.\"\"\"
"""


@pytest.mark.parametrize(("asked", "last"), [(["well"], PASSED), (["well", "badly"], BLOCKED)])
def test_only_what_fails_uses_up_the_patience(quick, monkeypatch, asked, last):
    """After long checks that failed no other begins; long ones that passed cost nothing."""
    hours = itertools.count(step=3600)
    run = quick(SLOW)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: float(next(hours))))
    for id in asked:
        run.finding(id)

    finding = run.finding("last")

    assert finding.verdict is last
    assert ("240" in finding.observed.render("en")) is (last is BLOCKED)
