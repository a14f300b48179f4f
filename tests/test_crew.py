"""grader/crew.py, place.py, resources.py: a lab's processes, its services, and faults on both."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from grader.errors import BadExercise, LabFault, SubmissionFault
from grader.exercise import ROOT, load
from grader.home import Home
from grader.lab import Lab
from grader.resources import Resources
from grader.runner import grade
from grader.sandbox import best
from grader.services.http import ok
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.verdict import Verdict

WORK = """
import os, time, urllib.request
from celery import Celery
app = Celery("work")
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)

@app.task
def env(name):
    return os.environ.get(name)

@app.task
def pid():
    return os.getpid()

@app.task(acks_late=True)
def wait_for(path, begun=""):
    if begun:
        open(begun, "w").close()
    while not os.path.exists(path):
        time.sleep(0.02)
    return "seen"

@app.task
def note(path, text="-"):
    with open(path, "a") as file:
        file.write(text)
    return text

@app.task
def fetch(path):
    with urllib.request.urlopen(os.environ["LAB_JOBS_URL"] + path) as answer:
        return answer.status

@app.task
def blocks():
    app.backend.client.eval("while true do end", 0)
"""
TOML = """
stars = 1
minutes = 1
module = "work"
brokers = ["redis", "rabbitmq"]
files = ["work.py"]
title = { en = "Work", zh = "工作" }
NEEDS
[environment]
LAB_JOBS_URL = "{http.jobs}"
LAB_FILE = "{data}/file"
LAB_OPS_URL = "{redis.ops}"
LAB_PLAIN = "as it is"
[criteria.it]
points = 2
zh = "它"
hints.default = { en = "Why?", zh = "？" }
"""
CHECK = '''
from grader.check import check
from grader.expect import answers

@check
def test_it(lab):
    """It answers."""
    assert lab.call("blocks", within=1) == answers()
'''


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The servers of all tests here."""
    temp = tmp_path_factory.mktemp("temp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temp))
        with Home("test") as home, Stack(home) as opened:
            yield opened
        assert list(temp.iterdir()) == []


def exercise(folder: Path, needs: str = ""):
    """Write the exercise and return it."""
    folder.mkdir()
    (folder / "exercise.toml").write_text(TOML.replace("NEEDS", needs))
    (folder / "test_work.py").write_text(CHECK)
    return load(folder)


def submission(folder: Path) -> Submission:
    """Write the submission and return it."""
    folder.mkdir()
    (folder / "work.py").write_text(WORK)
    return Submission.at(folder)


def opened(stack, tmp_path_factory, broker: str, needs: str = "") -> Lab:
    """Return a lab that runs the submission."""
    if broker in stack.missing((broker,)):
        pytest.skip("RabbitMQ is not installed")
    folder = tmp_path_factory.mktemp("crew")
    wanted = exercise(folder / "exercise", needs)
    return Lab(wanted, submission(folder / "work"), broker, stack, best(), 1)


@pytest.fixture(scope="module")
def lab(stack, tmp_path_factory):
    """A lab on Redis that the tests leave in good order."""
    made = opened(stack, tmp_path_factory, "redis")
    yield made
    made.close()


@pytest.fixture(params=["redis", "rabbitmq"])
def own(stack, tmp_path_factory, request):
    """A lab whose broker is its own."""
    made = opened(stack, tmp_path_factory, request.param, 'needs = ["own_broker"]')
    yield made
    made.close()


# Resources


def test_the_environment_names_the_resources(lab):
    """Each process of the submission finds the services' addresses, and plain texts as they are."""
    found = {name: lab.call("env", name).reply.result for name in lab.exercise.environment}

    assert found == {
        "LAB_JOBS_URL": lab.http["jobs"].url,
        "LAB_FILE": f"{lab.data}/file",
        "LAB_OPS_URL": lab.redis["ops"].student_url,
        "LAB_PLAIN": "as it is",
    }


def test_a_scripted_service_is_reached_and_its_requests_are_kept(lab, tmp_path):
    """A task reaches the service, and the saved history has the request with the service's name."""
    lab.http["jobs"].script("one", ok(value=1))

    assert lab.call("fetch", "/jobs/one").reply.result == 200
    lab.save(tmp_path / "history.json")
    rows = [(row["service"], row["key"], row["answered"]) for row in lab.history.requests]
    assert rows == [("jobs", "one", 200)]


def test_the_shared_folder_is_written_by_both(lab):
    """What a task writes into the shared folder the grader reads, and the reverse."""
    note = lab.data / "note"

    assert lab.call("note", str(note), kwargs={"text": "hello"}).reply.result == "hello"
    assert note.read_text() == "hello"
    waiting = lab.send("wait_for", str(lab.data / "go"))
    (lab.data / "go").touch()
    assert lab.finish([waiting])[0].reply.result == "seen"


def test_results_are_apart_from_the_broker(lab):
    """On a private Redis the results are not in database 0, where the broker's queues are."""
    call = lab.call("pid")

    assert lab.backend.exists(f"celery-task-meta-{call.id}")
    assert lab.backend.connection_pool.connection_kwargs["db"] == 1


def test_another_redis_can_be_stopped_and_started(lab):
    """An extra server keeps its data over a polite restart and loses it in a crash."""
    server = lab.redis["ops"]
    with server.client() as client:
        client.set("kept", 1)
        server.restart()
        assert client.get("kept") == b"1"
        server.restart(hard=True)
        client.set("new", 1)
        server.down(hard=True)
        with pytest.raises(Exception, match="onnect"):
            client.ping()
        server.up()
        assert client.get("new") is None


def test_what_was_made_before_a_failure_is_closed(tmp_path):
    """When one resource can't be made, those made before it are given back."""
    made = []

    def private_redis():
        server = SimpleNamespace(student_url="", close=lambda: made.append("closed"))
        if made:
            raise LabFault("redis_not_up", line="-")
        made.append("open")
        return server

    wanted = {"A": "{redis.one}", "B": "{redis.two}"}
    with pytest.raises(LabFault):
        Resources(wanted, SimpleNamespace(private_redis=private_redis), tmp_path / "data")
    assert made == ["open", "closed"]


def test_services_end_with_the_lab(stack, tmp_path_factory):
    """After the lab is closed its services refuse, and its folders are gone."""
    made = opened(stack, tmp_path_factory, "redis")
    url, data = made.http["jobs"].url, made.data
    made.close()

    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
    assert not data.exists()


@pytest.mark.parametrize(
    "text", ["{oddity}", "{http}", "{http.a.b}", "{redis.}", "{data.x}", "{http.A}", "{", "{}"]
)
def test_an_unknown_placeholder_is_named(tmp_path, text):
    """A variable with another placeholder than those offered is named with its file."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "exercise.toml").write_text(TOML.replace("NEEDS", "").replace("{http.jobs}", text))

    with pytest.raises(BadExercise, match=r"exercise\.toml.*environment\.LAB_JOBS_URL"):
        load(folder)


def test_a_private_redis_that_refuses_a_check_is_the_submissions_fault(lab):
    """Whatever a check asks of the run's own Redis itself, its refusal accuses the submission."""
    lab.backend.set("a string", "x")

    with pytest.raises(SubmissionFault, match="WRONGTYPE"), lab.judging():
        lab.backend.lrange("a string", 0, -1)
    with pytest.raises(AssertionError), lab.judging():
        raise AssertionError


# Faults on workers


def test_a_worker_is_restarted_with_other_options(lab):
    """Concurrency and variables are the new worker's alone, and the lab counts as disturbed."""
    lab.restart_worker({"LAB_EXTRA": "yes"}, concurrency=1)

    assert lab.call("env", "LAB_EXTRA").reply.result == "yes"
    assert len(lab.worker.pool) == 1 and lab.dirty
    lab.restart_worker()
    assert lab.call("env", "LAB_EXTRA").reply.result is None


def test_a_killed_child_is_replaced(lab):
    """The worker goes on after SIGKILL of a pool child, and the fault is in the history."""
    before = {process.pid for process in lab.worker.pool}
    killed = lab.kill_child()

    assert killed.pid in before
    assert lab.call("pid").reply.succeeded
    assert lab.history.faults[-1]["kind"] == "kill_child"


def test_a_stopped_worker_ends_its_task_first(lab):
    """SIGTERM in the middle of a task: the result is stored, the exit code is 0."""
    begun, end = lab.data / "begun", lab.data / "end"
    call = lab.send("wait_for", str(end), str(begun), within=20)
    assert lab.until(begun.exists, 20)
    lab.terminate_worker()
    end.touch()

    assert lab.await_end(within=20) == 0
    assert lab.finish([call])[0].reply.result == "seen"
    lab.restart_worker()


def test_a_worker_that_will_not_end_has_no_exit_code(lab):
    """A worker whose task goes on and on is given up after the time allowed."""
    begun, end = lab.data / "begun again", lab.data / "never"
    lab.send("wait_for", str(end), str(begun))
    assert lab.until(begun.exists, 20)

    assert lab.stop_worker(within=0.2) is None
    end.touch()
    lab.await_end()
    lab.restart_worker()


def test_a_killed_worker_leaves_nobody(lab):
    """SIGKILL of a worker ends all of its children; a second worker can take over."""
    pool = lab.worker.pool
    lab.kill_worker()
    second = lab.second_worker()

    assert not any(process.is_running() and process.status() != "zombie" for process in pool)
    assert lab.call("pid").reply.succeeded and second.alive
    lab.restart_worker()


# Faults on the broker


def test_a_broker_that_was_restarted_has_its_messages(own):
    """What was queued before a polite restart is done after it, by a worker that comes later."""
    own.kill_worker()
    call = own.send("pid", within=30)
    own.restart_broker()
    own.restart_worker()

    assert own.finish([call])[0].reply.succeeded
    assert [fault["kind"] for fault in own.history.faults] == ["kill_all", "restart_broker"]
    with own.tapped():
        again = own.call("pid", within=30)
    assert own.history.published(again.id) == 1


def test_a_broker_that_others_use_is_not_restarted(lab):
    """Without a broker of its own a lab refuses to restart it: that is the lab's fault."""
    with pytest.raises(LabFault, match="alone"):
        lab.restart_broker()


@pytest.mark.parametrize("failure", ["", "no message was seen"])
def test_a_deaf_tap_is_the_labs_fault(stack, tmp_path_factory, monkeypatch, failure):
    """What a tap that hears nothing did not see fails no check: the lab is at fault."""
    monkeypatch.setattr("grader.lab.ANSWER_SECONDS", 0.5)
    made = opened(stack, tmp_path_factory, "rabbitmq")
    try:
        virtual_host = made.space.parts[-1]
        virtual_host.broker.management.create_vhost(virtual_host.vhost, tracing=False)
        with pytest.raises(LabFault, match="not see"), made.tapped():
            assert not failure, failure
    finally:
        made.close()


def test_a_worker_behind_a_proxy_comes_back(stack, tmp_path_factory):
    """A worker whose connection was cut takes tasks again when the proxy lets it."""
    made = opened(stack, tmp_path_factory, "rabbitmq")
    try:
        with made.proxied() as proxy:
            assert made.call("pid").reply.succeeded and proxy.open
            proxy.refuse()
            proxy.cut()
            call = made.send("pid", within=30)
            proxy.pass_through()
            assert made.finish([call])[0].reply.succeeded
    finally:
        made.close()


def test_an_endless_script_is_the_submissions_failure(stack, tmp_path):
    """Who keeps the private Redis busy with a script for ever has failed, and not the lab."""
    result = grade(exercise(tmp_path / "x"), submission(tmp_path / "w"), ["redis"], stack, 1)

    (finding,) = result.findings
    assert finding.verdict is Verdict.FAILED
    assert "does not end" in finding.observed.render("en")


def test_what_contributing_names_is_there(lab):
    """Each `lab.NAME` in the table of CONTRIBUTING.md is one that a lab has."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`lab\.([a-z_]+)", text.split("## What a check has at hand")[1]))

    assert len(named) > 20
    assert not [name for name in named if not hasattr(lab, name)]
    assert hasattr(lab.client, "call")
