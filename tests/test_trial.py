"""grader/stack/trial.py with a fake Docker client: what it is asked, and what is said of it.

No Docker engine is needed; what a real one does with a real stack is not proven here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest

from grader.containers.project import load
from grader.exercise import SOLUTIONS
from grader.stack import compose, trial

FAKE = """\
#!{python}
import json, pathlib, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
with open(here / "calls", "a") as file:
    file.write(json.dumps(words) + "\\n")
for word, out, code in json.loads((here / "answers").read_text()):
    if word in words:
        print(out)
        sys.exit(code)
"""
PLAN = {"services": {"worker": {"image": "a:1", "ports": ["1:1"], "command": ["echo", "$A"]}}}


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A fake client; `docker(word, out, code)` says what calls with that word print."""
    folder, answers = tmp_path / "bin", [["version", "27.0", 0]]
    folder.mkdir()
    (folder / "docker").write_text(FAKE.format(python=sys.executable))
    (folder / "docker").chmod(0o755)
    (folder / "answers").write_text(json.dumps(answers))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    compose.engine.cache_clear()
    trial._known.clear()

    def answer(word, out="", code=0):
        answers.append([word, out, code])
        (folder / "answers").write_text(json.dumps(answers))

    answer.calls = lambda: [json.loads(x) for x in (folder / "calls").read_text().splitlines()]
    yield answer
    compose.engine.cache_clear()


@pytest.fixture
def project(tmp_path):
    """The reference solution, as a project."""
    shutil.copytree(SOLUTIONS / "1_1", tmp_path / "work")
    return load(tmp_path / "work")


def test_without_an_engine_it_is_not_run(project, monkeypatch):
    """Where no engine answers the remark says so, and names the command."""
    monkeypatch.setattr(compose, "engine", lambda: "")

    assert "docker compose up" in trial.remark(project).render("en")
    assert "docker compose up" in trial.remark(project).render("zh")


def test_it_can_be_switched_off(docker, project, monkeypatch):
    """LAB_COMPOSE_UP=0 keeps strangers' containers off the machine, and is said."""
    monkeypatch.setenv("LAB_COMPOSE_UP", "0")

    assert "LAB_COMPOSE_UP=0" in trial.remark(project).render("en")


def test_a_stack_that_comes_up_is_told_and_removed(docker, project):
    """It is started without its ports, asked for a pong, and removed with its volumes."""
    docker("config", json.dumps(PLAN))
    docker("ping", "worker: OK pong")

    assert "answered a ping" in trial.remark(project).render("en")
    kinds = [
        next(w for w in ("config", "up", "exec", "down") if w in c) for c in docker.calls()[1:]
    ]
    assert kinds == ["config", "up", "exec", "down"]
    assert not list(project.root.glob(".lab-trial-*"))
    assert trial.remark(project) and len(docker.calls()) == 5  # known already


def test_a_stack_that_fails_is_told_and_removed(docker, project):
    """What Docker said is in the remark, and the stack is removed all the same."""
    docker("config", json.dumps(PLAN))
    docker("up", "no space left", 1)

    assert "no space left" in trial.remark(project).render("en")
    assert "down" in docker.calls()[-1]


@pytest.mark.parametrize(
    "body",
    [
        {"privileged": True},
        {"network_mode": "host"},
        {"volumes": [{"type": "bind", "source": "/", "target": "/host"}]},
        {"volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/s"}]},
        {"build": {"context": ".", "network": "host"}},
    ],
)
def test_a_stack_that_reaches_for_the_machine_is_not_started(docker, project, body):
    """A stack that would be more than containers is named, not started."""
    docker("config", json.dumps({"services": {"worker": body}}))

    assert "worker" in trial.remark(project).render("en")
    assert "up" not in [word for call in docker.calls() for word in call]


def test_passwords_are_drawn(project):
    """Each password without a value gets one; what the example says stays."""
    values = trial._values(project)

    assert len(values["REDIS_PASSWORD"]) == 32 == len(values["RABBITMQ_PASSWORD"])
    assert (values["RABBITMQ_USER"], values["COMPOSE_PROFILES"]) == ("lab", "redis")
