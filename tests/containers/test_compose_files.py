"""Compose files, good and bad ones, rule by rule."""

from __future__ import annotations

import shutil

import pytest

from grader.containers import rules
from grader.containers.project import load
from grader.exercise import SOLUTIONS
from tests.containers.plain import BONUS, CORE, PLAIN, changed, complaints

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
    "options before a text": (
        "celery -A app worker",
        "[bash, -eo, pipefail, -c, exec celery worker]",
    ),
    "said before exec": (
        "celery -A app worker",
        'sh -c "echo starting celery worker && exec celery -A app worker"',
    ),
    "udp beside tcp": (REDIS_PORT, '["127.0.0.1:6379:6379", "127.0.0.1:6379:6379/udp"]'),
    "switch by number": ("image: redis:7", "image: redis:7\n    environment: {EMPTY_PASSWORD: 1}"),
    "no password": (
        "image: redis:7",
        "image: redis:7\n    command: [redis-server, --requirepass, '', --save, '60 1']",
    ),
    "password of a file": (
        "image: redis:7",
        "image: redis:7\n    command: sh -c 'redis-server --requirepass \"`cat /run/x`\"'",
    ),
    "check in a shell's text": ("[CMD, redis-cli, ping]", "sh -c 'redis-cli ping | grep PONG'"),
    "check with branches": (
        "[CMD, redis-cli, ping]",
        "if redis-cli ping; then exit 0; else exit 1; fi",
    ),
    "rpc": ("redis://redis:6379/1", "rpc://"),
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


BUILT = "    build: .\n    command: celery -A app flower\n"


@pytest.mark.parametrize("name", ["celery-lab", "celery-lab:1.0", "${LAB_IMAGE}"])
def test_an_image_that_another_service_builds_counts_as_built(make, name):
    """One service may build an image and name it, and another use it by that name."""
    text = changed(BUILT, f"    image: {name}\n    command: celery -A app flower\n")
    text = changed("    build: .\n", f"    build: .\n    image: {name}\n", text)
    assert complaints(make(text)) == {}

    text = changed(BUILT, f"    build: .\n    image: {name}\n    command: celery -A app flower\n")
    text = changed(
        "    build: .\n    command: celery -A app worker\n", f"    image: {name}\n", text
    )
    assert complaints(make(text)) == {}


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
    "sides swapped": ("loopback", REDIS_PORT, '["127.0.0.1:6379:16379"]'),
    "udp": ("loopback", REDIS_PORT, '["127.0.0.1:6379:6379/udp"]'),
    "udp in long form": (
        "loopback",
        REDIS_PORT,
        "[{target: 6379, published: 6379, host_ip: 127.0.0.1, protocol: udp}]",
    ),
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
    "or true in a text's shell": (
        "health",
        "[CMD, redis-cli, ping]",
        "sh -c 'redis-cli ping || true'",
    ),
    "version": ("health", "[CMD, redis-cli, ping]", "[CMD, redis-cli, --version]"),
    "words for a shell": ("health", "[CMD, redis-cli, ping]", "[CMD-SHELL, redis-cli, ping]"),
    "started": (
        "waits",
        "redis: {condition: service_healthy}",
        "redis: {condition: service_started}",
    ),
    "a list": ("waits", WAITS, "    depends_on: &healthy [redis, rabbitmq]\n"),
    "one of two": ("waits", "      rabbitmq: {condition: service_healthy}\n", ""),
    "no backend": ("urls", "      CELERY_RESULT_BACKEND: redis://redis:6379/1\n", ""),
    "localhost": ("urls", "redis://redis:6379/0", "redis://localhost:6379/0"),
    "no host": ("urls", "redis://redis:6379/0", "redis://"),
    "no host, a database": ("urls", "redis://redis:6379/1", "redis://:${PW:?}@/1"),
    "every address": ("urls", "redis://redis:6379/0", "redis://0.0.0.0:6379/0"),
    "another loopback address": ("urls", "redis://redis:6379/0", "amqp://127.0.0.2//"),
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
    "check's variable": (
        "passwords",
        "[CMD, redis-cli, ping]",
        "REDISCLI_AUTH=hunter2 redis-cli ping",
    ),
    "variable in a shell": (
        "passwords",
        "[CMD, redis-cli, ping]",
        "[CMD, sh, -c, 'REDISCLI_AUTH=hunter2 redis-cli ping']",
    ),
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
    "su": ("no_shell", "celery -A app worker", "su celery -c 'celery -A app worker'"),
    "stdbuf, then bash": ("no_shell", "celery -A app worker", "[stdbuf, -oL, bash, -c, celery]"),
    "timeout, then sh": ("no_shell", "celery -A app worker", "[timeout, 1d, sh, -c, celery]"),
    "init with a value": ("no_shell", "celery -A app worker", "[tini, -p, A, --, sh, -c, celery]"),
    "exec without a shell": ("no_shell", "celery -A app worker", "exec celery -A app worker"),
    "a shell of a shell": ("no_shell", "celery -A app worker", "[sh, -c, exec bash -c 'celery']"),
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
