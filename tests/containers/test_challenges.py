"""The rules of 1_1's extension challenges."""

from __future__ import annotations

import shutil

import pytest

from grader.containers import challenges
from grader.containers.project import load
from grader.exercise import SOLUTIONS
from tests.containers.plain import BONUS, DOCKERFILE, changed, complaints

CHALLENGES = {
    "anybody": ("worker_health", " -d celery@$$HOSTNAME", ""),
    "nobody's variable": (
        "worker_health",
        '["CMD-SHELL", "celery -A app inspect ping -d celery@$$HOSTNAME -t 5"]',
        '["CMD", "celery", "inspect", "ping", "-d", "celery@$$HOSTNAME"]',
    ),
    "asks nobody": ("worker_health", "inspect ping -d celery@$$HOSTNAME -t 5", "--version"),
    "another name": ("worker_health", "celery@$$HOSTNAME", "celery@worker"),
    "one of two names": ("worker_health", "celery@$$HOSTNAME", "celery@$$HOSTNAME,celery@other"),
    "a format": ("worker_health", "celery@$$HOSTNAME", "celery@%h"),
    "unnamed": ("env_example", "${REDIS_PORT:-6379}", "${REDIS_PORT_2:-6379}"),
    "passed on": ("env_example", "RABBITMQ_DEFAULT_USER: ${RABBITMQ_USER:-lab}", "NEW:"),
    "no restart": ("restart", "    restart: unless-stopped\n    ports:", "    ports:"),
    "the same broker": (
        "profile",
        "profiles: [rabbitmq]\n    environment: *rabbitmq-urls",
        "profiles: [rabbitmq]\n    environment: *redis-urls",
    ),
    "two profiles": (
        "profile",
        "<<: *flower\n    profiles: [rabbitmq]",
        "<<: *flower\n    profiles: [other]",
    ),
    "user 0": ("user", "    profiles: [redis]", "    user: '0:0'\n    profiles: [redis]"),
}


def test_a_restart_policy_without_a_condition_restarts(tmp_path):
    """The Compose specification: where `condition` is left out it is `any`."""
    project = solution_with(
        tmp_path,
        "restart: unless-stopped\n    ports:",
        "deploy: {restart_policy: {delay: 5s}}\n    ports:",
    )

    assert "restart" not in complaints(project, BONUS)


def test_the_stage_that_is_built_says_who_runs(tmp_path):
    """A worker that is built from an earlier stage does not get the last stage's USER."""
    project = solution_with(tmp_path, "    profiles: [redis]", "    profiles: [redis]")
    worker = project.services["worker"]
    worker["build"] = {
        "context": str(tmp_path),
        "dockerfile_inline": "FROM a AS base\nFROM base\nUSER app\n",
        "target": "base",
    }
    worker.pop("user", None)

    assert "user" in complaints(project, BONUS)
    del worker["build"]["target"]
    assert "user" not in complaints(project, BONUS)


def solution_with(tmp_path, old, new):
    """Return the solution's project with one text of its compose file changed."""
    shutil.copytree(SOLUTIONS / "1_1", tmp_path / "work")
    file = tmp_path / "work" / "docker-compose.yml"
    file.write_text(changed(old, new, file.read_text(encoding="utf-8")), encoding="utf-8")
    return load(tmp_path / "work")


@pytest.mark.parametrize(("rule", "old", "new"), CHALLENGES.values(), ids=CHALLENGES)
def test_one_mistake_breaks_one_challenge(tmp_path, rule, old, new):
    """Each challenge's mistake is found by its own rule."""
    assert list(complaints(solution_with(tmp_path, old, new), BONUS)) == [rule]


def test_a_variable_of_compose_is_no_name(tmp_path):
    """`$HOSTNAME` in a compose file is Compose's own variable, which no example names either."""
    shutil.copytree(SOLUTIONS / "1_1", tmp_path / "work")
    file = tmp_path / "work" / "docker-compose.yml"
    file.write_text(changed("$$HOSTNAME", "$HOSTNAME", file.read_text(encoding="utf-8")))

    found = complaints(load(tmp_path / "work"), BONUS)
    assert list(found) == ["worker_health", "env_example"]
    assert found["worker_health"].hint == "unexpanded"


@pytest.mark.parametrize(
    ("command", "body", "name"),
    [
        ("celery -A app worker", "hostname: box", "celery@box"),
        ("celery -A app worker -n one@%h", "hostname: box.local", "one@box.local"),
        ("celery -A app worker -n one@%n", "hostname: box.local", "one@box"),
        ("celery -A app worker --hostname=one@two", "tty: true", "one@two"),
        ("celery -A app worker -n one", "tty: true", "celery@one"),
        ("sh -c 'exec celery -A app worker -n one@two'", "tty: true", "one@two"),
        ("celery -A app worker -n ${NODE:?}", "tty: true", "celery@${NODE:?}"),
        ("celery -A app worker", "hostname: ${BOX:-box}", "celery@box"),
    ],
)
def test_a_name_of_the_workers_own_is_fine(make, command, body, name):
    """The destination may be written out where the files say what the worker is called."""
    check = f"healthcheck: {{test: [CMD, celery, -A, app, inspect, ping, -d, '{name}']}}"
    text = changed("    command: celery -A app worker\n", f"    command: {command}\n    {body}\n")
    text = changed("    init: true\n", f"    init: true\n    {check}\n", text)

    assert challenges.worker_health(make(text)) is None
    assert challenges.worker_health(make(text.replace(f"'{name}']", f"'{name}x']")))


def test_an_example_is_needed(make):
    """Without .env.example the challenge fails with the file's name."""
    assert ".env.example" in challenges.env_example(make()).seen.render("en")


def test_the_dockerfiles_health_check_counts(make):
    """A worker's health check may stand in its Dockerfile."""
    check = "HEALTHCHECK --interval=9s CMD celery inspect ping -d celery@$HOSTNAME\n"

    assert challenges.worker_health(make(dockerfile=DOCKERFILE + check)) is None
    assert challenges.worker_health(make())
