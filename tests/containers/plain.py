"""What the tests of grader/containers share: the smallest good project, and how it is judged.

Each test changes it, or the reference solution, in one place.
"""

from __future__ import annotations

from grader.containers import challenges, passwords, rules
from grader.containers.health import test_of
from grader.containers.project import load

test_of.__test__ = False  # a reader of health checks, no test
CORE = {
    "services": rules.services,
    "loopback": rules.loopback,
    "health": rules.health,
    "waits": rules.waits,
    "urls": rules.urls,
    "passwords": passwords.in_files,
    "pinned": rules.pinned,
    "no_shell": rules.no_shell,
    "grace": rules.grace,
    "init": rules.init,
}
BONUS = {
    "worker_health": challenges.worker_health,
    "env_example": challenges.env_example,
    "user": challenges.non_root,
    "restart": challenges.restarts,
    "profile": challenges.profile,
}
PLAIN = """\
services:
  redis:
    image: redis:7
    ports: ["127.0.0.1:6379:6379"]
    healthcheck: {test: [CMD, redis-cli, ping]}
  rabbitmq:
    image: rabbitmq:4-management
    ports: ["127.0.0.1:5672:5672", "127.0.0.1:15672:15672"]
    healthcheck: {test: [CMD, rabbitmq-diagnostics, -q, ping]}
  worker:
    build: .
    command: celery -A app worker
    init: true
    stop_grace_period: 1m
    environment: &urls
      CELERY_BROKER_URL: redis://redis:6379/0
      CELERY_RESULT_BACKEND: redis://redis:6379/1
    depends_on: &healthy
      redis: {condition: service_healthy}
      rabbitmq: {condition: service_healthy}
  flower:
    build: .
    command: celery -A app flower
    ports: ["127.0.0.1:5555:5555"]
    environment: *urls
    depends_on: *healthy
"""
DOCKERFILE = 'FROM python:3.13-slim\nCMD ["celery", "-A", "app", "worker"]\n'


def write(folder, compose=PLAIN, dockerfile=DOCKERFILE, **files):
    """Write a project's files and load it; `__` in a name stands for a dot."""
    (folder / "docker-compose.yml").write_text(compose, encoding="utf-8")
    if dockerfile is not None:
        (folder / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return load(folder)


def changed(old: str, new: str, text: str = PLAIN) -> str:
    assert old in text, old
    return text.replace(old, new, 1)


def complaints(project, rules=CORE):
    """Return the names of the rules that complain; every sentence can be rendered."""
    found = {}
    for name, rule in rules.items():
        if complaint := rule(project):
            for lang in ("en", "zh"):
                assert complaint.wanted.render(lang) and complaint.seen.render(lang)
            found[name] = complaint
    return found
