"""grader/containers: compose files and Dockerfiles, good and bad ones, rule by rule.

The reference solution is the good file. Each row changes it in one place.
"""

from __future__ import annotations

import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grader.containers import challenges, passwords, rules
from grader.containers.command import hands_over, shell_between
from grader.containers.complaint import Broken
from grader.containers.dockerfile import Dockerfile
from grader.containers.health import always, test_of
from grader.containers.project import load
from grader.containers.variables import UNKNOWN, expand, names
from grader.exercise import SOLUTIONS

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


@pytest.fixture
def make(tmp_path):
    """Write a project's files and load it."""

    def making(compose=PLAIN, dockerfile=DOCKERFILE, **files):
        (tmp_path / "docker-compose.yml").write_text(compose, encoding="utf-8")
        if dockerfile is not None:
            (tmp_path / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        for name, text in files.items():
            path = tmp_path / name.replace("__", ".")
            path.write_text(text, encoding="utf-8")
        return load(tmp_path)

    return making


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


# Good files


def test_the_plain_file_obeys_every_core_rule(make):
    """The smallest good file has nothing against it."""
    assert complaints(make()) == {}


def test_the_solution_obeys_every_rule(tmp_path):
    """The reference solution obeys the core rules and the challenges' too."""
    shutil.copytree(SOLUTIONS / "1_1", tmp_path / "work")

    assert complaints(load(tmp_path / "work"), CORE | BONUS) == {}


REDIS_PORT = '["127.0.0.1:6379:6379"]'
WAITS = """\
    depends_on: &healthy
      redis: {condition: service_healthy}
      rabbitmq: {condition: service_healthy}
"""
GOOD = {
    "IPv6": (REDIS_PORT, '["[::1]:6379:6379"]'),
    "another host port": (REDIS_PORT, '["127.0.0.1:16379:6379"]'),
    "interpolation": (REDIS_PORT, '["${BIND:-127.0.0.1}:${PORT:-6379}:6379/tcp"]'),
    "long ports": (REDIS_PORT, "[{target: 6379, published: '6379', host_ip: 127.0.0.1}]"),
    "long ports, v6": (REDIS_PORT, "[{target: 6379, published: 6379, host_ip: '::1'}]"),
    "any host port": (REDIS_PORT, '["127.0.0.1::6379"]'),
    "a range": ('"127.0.0.1:5672:5672"', '"127.0.0.1:5671-5672:5671-5672"'),
    "old version key": ("services:", "version: '3.8'\nservices:"),
    "shell check": ("[CMD, redis-cli, ping]", "redis-cli ping | grep PONG"),
    "check with exit 1": ("[CMD, redis-cli, ping]", "redis-cli ping || exit 1"),
    "check in CMD-SHELL": ("[CMD, redis-cli, ping]", "[CMD-SHELL, 'redis-cli ping || exit 1']"),
    "array command": ("celery -A app worker", "[celery, -A, app, worker]"),
    "exec in a shell": ("celery -A app worker", 'sh -c "sleep 1 && exec celery -A app worker"'),
    "exec with a variable": (
        "celery -A app worker",
        "[bash, -ec, 'N=1 exec celery -A app worker']",
    ),
    "entrypoint of an init": ("init: true", "entrypoint: [tini, --]"),
    "init as text": ("init: true", "init: 'yes'"),
    "grace in seconds": ("stop_grace_period: 1m", "stop_grace_period: 75s"),
    "grace, mixed": ("stop_grace_period: 1m", "stop_grace_period: 1m30s"),
    "grace by default": ("stop_grace_period: 1m", "stop_grace_period: ${GRACE:-2m}"),
    "not required": (
        "{condition: service_healthy}",
        "{condition: service_healthy, required: false}",
    ),
    "digest": ("redis:7", "redis@sha256:" + "a" * 64),
    "registry with a port": ("redis:7", "localhost:5000/redis:7-alpine"),
    "version by default": ("redis:7", "redis:${REDIS:-7.4}"),
    "v in the tag": ("redis:7", "redis:v7.2"),
    "urls as a list": (
        "environment: &urls\n      CELERY_BROKER_URL: redis://redis:6379/0\n"
        "      CELERY_RESULT_BACKEND: redis://redis:6379/1",
        "environment: &urls\n      - CELERY_BROKER_URL=redis://redis:6379/0\n"
        "      - CELERY_RESULT_BACKEND",
    ),
    "required password": ("redis://redis", "redis://:${PASSWORD:?}@redis"),
    "empty default": ("redis://redis", "redis://:${PASSWORD:-}@redis"),
    "user by default": ("redis://redis", "redis://${U:-lab}:${PASSWORD}@redis"),
    "password file": ("image: redis:7", "image: redis:7\n    environment: {PASSWORD_FILE: /run/x}"),
    "switch": ("image: redis:7", "image: redis:7\n    environment: {ALLOW_EMPTY_PASSWORD: 'yes'}"),
    "open API": ("image: redis:7", "image: redis:7\n    environment: {UNAUTHENTICATED_API: x}"),
    "shell's variable": ("[CMD, redis-cli, ping]", "redis-cli -a $$REDIS_PASSWORD ping"),
    "extension fields": ("services:", "x-anything: {a: 1}\nservices:"),
    "profiles": ("init: true", "init: true\n    profiles: [a]"),
    "in place of Flower's own": (
        "    environment: *urls\n    depends_on: *healthy\n",
        "    extends: {service: worker}\n",
    ),
}


@pytest.mark.parametrize(("old", "new"), GOOD.values(), ids=GOOD)
def test_other_spellings_are_fine(make, old, new):
    """Whatever means the same as the plain file is as good."""
    assert complaints(make(changed(old, new))) == {}


def test_waiting_by_way_of_another_service_counts(make):
    """Flower may wait for the worker, which waits for the brokers."""
    text = changed("    depends_on: *healthy\n", "    depends_on: [worker]\n")

    assert complaints(make(text)) == {}


def test_a_file_of_another_name_is_extended(make):
    """`extends` brings what stands in another file; lists and mappings are joined."""
    common = "services:\n  base:\n    init: true\n    stop_grace_period: 2m\n"
    text = changed(
        "    init: true\n    stop_grace_period: 1m\n",
        "    extends: {file: common.yml, service: base}\n",
    )
    assert complaints(make(text, common__yml=common)) == {}


def test_an_included_file_counts(make):
    """`include` brings the services of another file."""
    head, flower, tail = PLAIN.partition("  flower:\n")
    more = "services:\n" + flower + tail.replace("*urls", "{CELERY_BROKER_URL: 'redis://redis'}")
    more = more.replace("*healthy", "[worker]")

    assert complaints(make("include: [more.yml]\n" + head, more__yml=more)) == {}


@pytest.mark.parametrize("name", ["__env", "worker__env", "__env__example"])
def test_an_env_file_counts(make, name):
    """The URLs may come from an env file, or from the example of one that is kept away."""
    urls = "CELERY_BROKER_URL=redis://redis\nCELERY_RESULT_BACKEND=\n"
    shown = {"__env__example": ".env"}.get(name, name.replace("__", "."))
    lines = "      CELERY_BROKER_URL: redis://redis:6379/0\n"
    lines += "      CELERY_RESULT_BACKEND: redis://redis:6379/1\n"
    text = changed("    environment: &urls\n" + lines, f"    env_file: {shown}\n")
    text = changed("    environment: *urls\n", f"    env_file: [{{path: {shown}}}]\n", text)
    body = urls.replace("BACKEND=", "BACKEND=redis://redis") if "example" not in name else urls

    assert complaints(make(text, **{name: body})) == {}


def test_the_image_says_the_command(make):
    """Without a command the Dockerfile's exec form counts."""
    assert complaints(make(changed("    command: celery -A app worker\n", ""))) == {}


# Bad files


BAD = {
    "no flower": ("services", "  flower:\n", "  flowers:\n"),
    "no image": ("services", "image: redis:7", "restart: always"),
    "all interfaces": ("loopback", REDIS_PORT, '["6379:6379"]'),
    "only the container's port": ("loopback", REDIS_PORT, '["6379"]'),
    "a number": ("loopback", REDIS_PORT, "[6379]"),
    "0.0.0.0": ("loopback", REDIS_PORT, '["0.0.0.0:6379:6379"]'),
    "another address": ("loopback", REDIS_PORT, '["192.168.1.2:6379:6379"]'),
    "long without address": ("loopback", REDIS_PORT, "[{target: 6379, published: 6379}]"),
    "address from outside": ("loopback", REDIS_PORT, '["${BIND}:6379:6379"]'),
    "open by default": ("loopback", REDIS_PORT, '["${BIND:-0.0.0.0}:6379:6379"]'),
    "one too many": ("loopback", REDIS_PORT, '["127.0.0.1:6379:6379", "6380:6380"]'),
    "unpublished": ("loopback", REDIS_PORT, "[]"),
    "not the page": ("loopback", ', "127.0.0.1:15672:15672"', ""),
    "host network": ("loopback", "image: redis:7", "image: redis:7\n    network_mode: host"),
    "no check": ("health", "    healthcheck: {test: [CMD, redis-cli, ping]}\n", ""),
    "no test": ("health", "{test: [CMD, redis-cli, ping]}", "{interval: 3s}"),
    "true": ("health", "[CMD, redis-cli, ping]", "[CMD, 'true']"),
    "or true": ("health", "[CMD, redis-cli, ping]", "redis-cli ping || true"),
    "or exit 0": ("health", "[CMD, redis-cli, ping]", "[CMD-SHELL, 'redis-cli ping || exit 0']"),
    "echo": ("health", "[CMD, redis-cli, ping]", "[CMD, echo, ok]"),
    "then exit 0": ("health", "[CMD, redis-cli, ping]", "redis-cli ping; exit 0"),
    "a shell's true": ("health", "[CMD, redis-cli, ping]", "[CMD, sh, -c, 'redis-cli ping || :']"),
    "switched off": ("health", "{test: [CMD, redis-cli, ping]}", "{disable: true}"),
    "NONE": ("health", "[CMD, redis-cli, ping]", "[NONE]"),
    "without CMD": ("health", "[CMD, redis-cli, ping]", "[redis-cli, ping]"),
    "started": (
        "waits",
        "redis: {condition: service_healthy}",
        "redis: {condition: service_started}",
    ),
    "a list": ("waits", WAITS, "    depends_on: &healthy [redis, rabbitmq]\n"),
    "one of two": ("waits", "      rabbitmq: {condition: service_healthy}\n", ""),
    "no backend": ("urls", "      CELERY_RESULT_BACKEND: redis://redis:6379/1\n", ""),
    "localhost": ("urls", "redis://redis:6379/0", "redis://localhost:6379/0"),
    "guest": ("passwords", "redis://redis:6379/0", "amqp://guest:guest@rabbitmq"),
    "default": ("passwords", "redis://redis:6379/0", "redis://:${PW:-secret}@redis"),
    "nested default": ("passwords", "redis://redis:6379/0", "${URL:-redis://:x@redis}"),
    "variable": (
        "passwords",
        "image: redis:7",
        "image: redis:7\n    environment: {DB_PASSWORD: x}",
    ),
    "number": ("passwords", "image: redis:7", "image: redis:7\n    environment: [A_PASS=1234]"),
    "option": (
        "passwords",
        "image: redis:7",
        "image: redis:7\n    command: redis-server --requirepass x",
    ),
    "option in a list": (
        "passwords",
        "image: redis:7",
        "image: redis:7\n    command: [redis-server, --requirepass, x]",
    ),
    "check's option": ("passwords", "[CMD, redis-cli, ping]", "[CMD, redis-cli, -a, x, ping]"),
    "flower's login": (
        "passwords",
        "celery -A app flower",
        "celery -A app flower --basic-auth=a:b",
    ),
    "an anchor's": ("passwords", "services:", "x-a: {url: 'amqp://a:b@c'}\nservices:"),
    "latest": ("pinned", "redis:7", "redis:latest"),
    "no tag": ("pinned", "redis:7", "redis"),
    "a name": ("pinned", "redis:7", "redis:alpine"),
    "port, no tag": ("pinned", "redis:7", "localhost:5000/redis"),
    "tag from outside": ("pinned", "redis:7", "redis:${TAG}"),
    "latest by default": ("pinned", "redis:7", "redis:${TAG:-latest}"),
    "sh": ("no_shell", "celery -A app worker", 'sh -c "celery -A app worker"'),
    "sh in a list": ("no_shell", "celery -A app worker", "[sh, -c, celery -A app worker]"),
    "bash, options": ("no_shell", "celery -A app worker", "[bash, -euxc, celery -A app worker]"),
    "shell as entrypoint": (
        "no_shell",
        "command: celery -A app worker",
        "entrypoint: [/bin/sh, -c]\n    command: [celery -A app worker]",
    ),
    "a pipe": ("no_shell", "celery -A app worker", "[sh, -c, exec celery worker | tee x]"),
    "exec of another": ("no_shell", "celery -A app worker", "[sh, -c, 'celery worker; exec true']"),
    "init, then sh": ("no_shell", "celery -A app worker", "[tini, --, sh, -c, celery worker]"),
    "59 s": ("grace", "stop_grace_period: 1m", "stop_grace_period: 59s"),
    "no grace": ("grace", "    stop_grace_period: 1m\n", ""),
    "no unit": ("grace", "stop_grace_period: 1m", "stop_grace_period: '60'"),
    "from outside": ("grace", "stop_grace_period: 1m", "stop_grace_period: ${GRACE}"),
    "no init": ("init", "    init: true\n", ""),
    "init: false": ("init", "init: true", "init: false"),
}


@pytest.mark.parametrize(("rule", "old", "new"), BAD.values(), ids=BAD)
def test_one_mistake_breaks_one_rule(make, rule, old, new):
    """Each mistake is found, by its own rule and by no other."""
    if rule == "services":
        assert rules.services(make(changed(old, new)))
    else:
        assert list(complaints(make(changed(old, new)))) == [rule]


DOCKERFILES = {
    "pinned by ARG": ([], "ARG V=3.13\nFROM python:${V}-slim\nCMD []"),
    "stages": ([], "FROM python:3.13 AS base\nFROM base\nCOPY --from=base /a /b"),
    "scratch": ([], "FROM --platform=linux/amd64 scratch"),
    "lower case, comment": ([], "# x\nfrom python:3.13\n"),
    "continued": ([], "FROM python:3.13\nRUN a \\\n # no\n && b\nRUN <<EOF\nFROM x\nEOF\n"),
    "secret from outside": ([], "FROM python:3.13\nARG TOKEN\nENV PASSWORD=$TOKEN"),
    "loose": (["pinned"], "FROM python\n"),
    "loose stage": (["pinned"], "FROM node AS web\nFROM python:3.13\n"),
    "loose copy": (["pinned"], "FROM python:3.13\nCOPY --chown=1 --from=astral/uv:latest /uv /\n"),
    "loose ARG": (["pinned"], "ARG V=latest\nFROM python:$V\n"),
    "password": (["passwords"], "FROM python:3.13\nENV REDIS_PASSWORD=hunter2\n"),
    "password, old form": (["passwords"], "FROM python:3.13\nENV REDIS_PASSWORD hunter2\n"),
    "password in a URL": (["passwords"], "FROM python:3.13\nENV A=1 B=redis://:x@y\n"),
}


@pytest.mark.parametrize(("wanted", "text"), DOCKERFILES.values(), ids=DOCKERFILES)
def test_dockerfiles_are_read(make, wanted, text):
    """Images and passwords are found in a Dockerfile, whatever its form."""
    assert list(complaints(make(dockerfile=text))) == wanted


COMMANDS = {
    "exec form": (True, 'FROM x:1\nCMD ["celery", "worker"]'),
    "shell form": (False, "FROM x:1\nCMD celery worker"),
    "shell form with exec": (True, "FROM x:1\nCMD exec celery worker"),
    "the last one": (False, 'FROM x:1\nCMD ["celery"]\nCMD celery worker'),
    "entrypoint in a shell": (False, 'FROM x:1\nENTRYPOINT celery\nCMD ["worker"]'),
    "dumb-init": (True, 'FROM x:1\nENTRYPOINT ["dumb-init", "--"]\nCMD ["celery", "worker"]'),
    "from an earlier stage": (True, 'FROM x:1 AS a\nCMD ["celery", "worker"]\nFROM a\nUSER b'),
    "none at all": (False, "FROM x:1\n"),
    "no array": (False, "FROM x:1\nCMD ['celery', 'worker']"),
}


@pytest.mark.parametrize(("good", "text"), COMMANDS.values(), ids=COMMANDS)
def test_the_images_command_is_judged(make, good, text):
    """What the worker's process is, is read from the Dockerfile where compose says nothing."""
    project = make(changed("    command: celery -A app worker\n", ""), text)

    assert (rules.no_shell(project) is None) is good


def test_a_script_hands_over_or_not(make, tmp_path):
    """An entrypoint script of the submission is read."""
    text = changed("command: celery -A app worker", "command: [sh, start.sh]")
    good = make(text, start__sh="#!/bin/sh\nset -e\nif a; then b; fi\nexec celery worker\n")
    assert rules.no_shell(good) is None

    bad = make(text, start__sh="#!/bin/sh\ncelery worker\n")
    assert rules.no_shell(bad)


@pytest.mark.parametrize(
    ("good", "script"),
    [
        (True, 'exec "$@"'),
        (True, "# celery worker\nexec celery worker"),
        (True, "if [ $A ]; then exec celery worker; else exec celery flower; fi"),
        (False, "exec 2>&1; celery worker"),
        (False, "celery worker & wait"),
        (False, ""),
    ],
)
def test_only_exec_hands_over(good, script):
    """A script gives its place to the worker by `exec`, and by nothing else."""
    assert hands_over(script) is good


def test_programs_before_a_shell_do_not_hide_it():
    """A shell behind env, nice or gosu is a shell."""
    for words in (["env", "A=1", "sh", "-c", "x"], ["gosu", "me", "bash", "-c", "x"]):
        assert shell_between(words, [])
    assert not shell_between(["nice", "-n", "5", "celery", "worker"], [])


@pytest.mark.parametrize(
    ("text", "never_fails"),
    [
        ("true", True),
        ("redis-cli ping && echo ok", False),
        ("echo start; redis-cli ping", False),
        ("redis-cli ping | grep PONG", False),
        ("redis-cli ping || (echo no; exit 1)", False),
        ("redis-cli ping || exit", False),
        ("redis-cli ping | true", True),
        ("redis-cli ping &", True),
        ("redis-cli ping || echo down", True),
        ("set -e; redis-cli ping; true", False),
        ("if redis-cli ping; then exit 0; else exit 1; fi", False),
    ],
)
def test_checks_that_never_fail_are_told(text, never_fails):
    """A health check is judged by the status it ends with."""
    assert always(text) is never_fails


def test_a_check_in_an_odd_form_is_told():
    """The first word of a list says what kind of check it is."""
    assert test_of({"test": ["redis-cli", "ping"]}).problem == "form"
    assert test_of({"test": ["CMD"]}).problem == "form"
    assert test_of({"test": []}).problem == "off"
    assert test_of(None).problem == "missing"


# Challenges


CHALLENGES = {
    "anybody": ("worker_health", " -d celery@$$HOSTNAME", ""),
    "nobody's variable": (
        "worker_health",
        '["CMD-SHELL", "celery -A app inspect ping -d celery@$$HOSTNAME -t 5"]',
        '["CMD", "celery", "inspect", "ping", "-d", "celery@$$HOSTNAME"]',
    ),
    "asks nobody": ("worker_health", "inspect ping -d celery@$$HOSTNAME -t 5", "--version"),
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


def test_an_example_is_needed(make):
    """Without .env.example the challenge fails with the file's name."""
    assert ".env.example" in challenges.env_example(make()).seen.render("en")


def test_the_dockerfiles_health_check_counts(make):
    """A worker's health check may stand in its Dockerfile."""
    check = "HEALTHCHECK --interval=9s CMD celery inspect ping -d celery@$HOSTNAME\n"

    assert challenges.worker_health(make(dockerfile=DOCKERFILE + check)) is None
    assert challenges.worker_health(make())


# What can't be read


BROKEN = {
    "a tab": ("services:\n\tredis: x", "line 2, column 1"),
    "unclosed": ("services: [a\nb: c", "line 2"),
    "twice": ("services:\n  a: {image: x}\n  a: {image: y}", "line 3"),
    "a list at the top": ("- redis\n", "line 1, column 1"),
    "empty": ("", "line 1, column 1"),
    "a list of services": ("services:\n  - redis\n", "line 1, column 1"),
    "ports as a mapping": ("services:\n  redis:\n    image: x\n    ports:\n      a: 1\n", "line 4"),
    "a text for ports": ("services:\n  redis:\n    image: x\n    ports: '1'\n", "line 4"),
    "unknown key": ("services:\n  redis:\n    image: x\n    port: []\n", "line 4"),
    "unknown key at the top": ("service: {}\n", "line 1"),
    "a wrong condition": (
        "services:\n  a:\n    image: x\n    depends_on:\n      b: {condition: healthy}\n",
        "line 5",
    ),
    "endless": ("a: &a\n  b: *a\n", "too big"),
    "a bomb": (
        "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"x-{b}: &{b} [{', '.join(['*' + a] * 10)}]\n"
            for a, b in zip("abcdef", "bcdefg", strict=True)
        ),
        "too big",
    ),
    "deep": ("a: " + "[" * 3000, ""),
    "a strange tag": ("services: !!python/object:os.system {}\n", "line 1"),
    "extends nobody": ("services:\n  a:\n    extends: b\n", "line 3"),
    "extends itself": ("services:\n  a: {extends: b}\n  b: {extends: a}\n", "line"),
    "extends outside": ("services:\n  a: {extends: {file: ../x.yml, service: a}}\n", "outside"),
    "includes what is not there": ("include: [no.yml]\nservices: {}\n", "no.yml"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_told_with_their_place(make, text, words):
    """What can't be read ends in a sentence with line and column in both languages."""
    with pytest.raises(Broken) as caught:
        make(text)

    assert words in caught.value.complaint.seen.render("en")
    assert caught.value.complaint.seen.render("zh") and caught.value.complaint.wanted.render("zh")


def test_kinds_are_named(make):
    """A list where a mapping belongs is said in those words."""
    with pytest.raises(Broken, match=r"services should be a mapping .* and is a list"):
        make("services:\n  - redis\n")
    with pytest.raises(Broken, match=r"unknown in services.redis: port"):
        make("services:\n  redis:\n    image: x\n    port: []\n")


def test_a_missing_file_is_told(tmp_path):
    """Without docker-compose.yml there is a sentence that names it."""
    with pytest.raises(Broken, match=r"no docker-compose\.yml"):
        load(tmp_path)


def test_a_missing_dockerfile_is_told(make):
    """A service that is built from no file is a complaint with the file's name."""
    with pytest.raises(Broken, match="no Dockerfile"):
        rules.pinned(make(dockerfile=None))


def test_the_version_key_is_mentioned(make):
    """Where the file is not valid and has the obsolete key, the hint speaks of it."""
    with pytest.raises(Broken) as caught:
        make("version: '3'\nservices: []\n")

    assert caught.value.complaint.hint == "obsolete_version"


# Whatever comes


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="${}:-?+AB_ \\", max_size=30))
def test_any_text_can_be_expanded(text):
    """No text makes the reader of variables fail or loop, and none of its names is empty."""
    assert isinstance(expand(text), str)
    assert all(re.fullmatch(r"\w+", name) for name in names(text))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$A", UNKNOWN),
        ("${A}", UNKNOWN),
        ("${A:-b}c", "bc"),
        ("${A-b}", "b"),
        ("${A:?why}", UNKNOWN),
        ("${A:+b}", ""),
        ("${A:-${B:-c}}", "c"),
        ("${A:-x${B}}", "x" + UNKNOWN),
        ("$$A", "$A"),
        ("${A:-{}}", "{}"),
        ("5$", "5$"),
        ("${}", "${}"),
    ],
)
def test_variables_are_replaced_by_their_defaults(text, wanted):
    """Compose's forms of a variable give what they give with an empty environment."""
    assert expand(text) == wanted


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='FROMCDENV \\\n["]#=<:.-axy1', max_size=80))
def test_any_dockerfile_can_be_read(text):
    """No text makes the reader of Dockerfiles fail or loop."""
    file = Dockerfile.parse(text)

    assert all(isinstance(image, str) for image in file.images({}))
    file.last("CMD")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab:$/.1 ", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)
KEYS = ("ports", "healthcheck", "depends_on", "environment", "command", "init", "user", "image")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KEYS), VALUES)
def test_odd_values_are_judged_or_refused(tmp_path_factory, key, value):
    """Whatever stands at a key, there is a verdict: the schema's or the rules'."""
    import json

    folder = tmp_path_factory.mktemp("odd")
    text = changed("    init: true\n", f"    init: true\n    {key}: {json.dumps(value)}\n")
    if key in ("depends_on", "environment", "command", "init"):
        text = text.replace(
            "  worker:\n", f"  odd:\n    image: a:1\n    {key}: {json.dumps(value)}\n  worker:\n", 1
        )
        text = text.replace(f"    init: true\n    {key}: {json.dumps(value)}\n", "    init: true\n")
    (folder / "docker-compose.yml").write_text(text)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    try:
        complaints(load(folder), CORE | BONUS)
    except Broken as broken:
        broken.complaint.seen.render("zh")
