"""Dockerfiles, the commands of images, and health checks."""

from __future__ import annotations

import pytest

from grader.containers import rules
from grader.containers.command import hands_over, shell_between
from grader.containers.complaint import Broken
from grader.containers.health import always, test_of
from tests.containers.plain import CORE, changed, complaints

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
    "no password": ([], "FROM python:3.13\nRUN adduser --disabled-password --gecos '' lab\n"),
    "password of the environment": (
        [],
        "FROM python:3.13\nRUN --mount=type=secret,id=token TOKEN=$(cat /run/secrets/token) pip\n",
    ),
    "password in a command": (
        ["passwords"],
        'FROM python:3.13\nCMD ["celery","-b","redis://:hunter2@redis:6379/0","worker"]\n',
    ),
    "password in a file": (["passwords"], "FROM x:1\nRUN echo requirepass hunter2 > /r.conf\n"),
    "password in a check": (["passwords"], "FROM x:1\nHEALTHCHECK CMD redis-cli -a hunter2 ping\n"),
    "password in a check's list": (
        ["passwords"],
        'FROM x:1\nHEALTHCHECK --interval=9s CMD ["redis-cli", "-a", "hunter2", "ping"]\n',
    ),
    "password before FROM": (["passwords"], "ARG REDIS_PASSWORD=hunter2\nFROM python:3.13\n"),
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


def test_a_script_is_found_below_the_context(make, tmp_path):
    """A script may lie in a folder; of two of one name the one counts that is named."""
    for folder, text in (("docker", "celery worker"), ("other", "exec celery worker")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "start.sh").write_text(f"#!/bin/sh -e\n{text}\n")

    for command, good in (
        ("[sh, docker/start.sh]", False),
        ("[sh, other/start.sh]", True),
        ("[./docker/start.sh]", False),
        ("[/app/docker/start.sh]", False),
        ("[/app/other/start.sh]", True),
    ):
        project = make(changed("celery -A app worker", command))
        assert (rules.no_shell(project) is None) is good


def test_a_script_that_becomes_a_shell_keeps_one(make):
    """`exec "$@"` starts what the script is given, and that may be a shell."""
    text = changed("    command: celery -A app worker\n", "    entrypoint: [./start.sh]\n")
    for given, good in (("[celery, worker]", True), ("[sh, -c, celery worker]", False)):
        more = f"    entrypoint: [./start.sh]\n    command: {given}\n"
        again = make(changed("    entrypoint: [./start.sh]\n", more, text), start__sh=HANDS_OVER)
        assert (rules.no_shell(again) is None) is good


HANDS_OVER = '#!/usr/bin/env -S bash -e\necho ready\nexec "$@"\n'


def test_a_missing_dockerfile_is_one_mistake(make):
    """Only the rule for images complains, where the compose file says all the rest."""
    with pytest.raises(Broken):
        rules.pinned(make(dockerfile=None))
    del (others := dict(CORE))["pinned"]

    assert complaints(make(dockerfile=None), others) == {}


@pytest.mark.parametrize(
    ("good", "script"),
    [
        (True, 'exec "$@"'),
        (True, 'echo "Starting celery worker"\nexec "$@"'),
        (True, 'exec "$@"  # become it; signals arrive'),
        (True, 'main() {\n  exec "$@"\n}\nmain "$@"'),
        (True, 'main() { exec "$@"; }; main "$@"'),
        (True, 'case "$1" in\n  worker) exec celery -A app worker ;;\n  *) exec "$@" ;;\nesac'),
        (True, 'case $1 in worker|w) exec celery worker;; *) echo "what?"; exit 1;; esac'),
        (True, "until nc -z redis 6379; do sleep 1; done\nexec celery -A app worker > /log 2>&1"),
        (True, 'set -- celery -A app worker "$@"\nexec gosu lab "$@"'),
        (True, "function go {\n  exec celery worker\n}\ngo"),
        (False, 'if [ "$1" = flower ]; then exec celery flower; fi\ncelery -A app worker'),
        (False, 'if [ "$1" = flower ]; then exec celery flower; fi\n"$@"'),
        (False, "exec celery worker | tee /log"),
        (False, "exec celery worker &\nwait"),
        (False, "(exec celery worker)"),
        (False, 'main() { "$@"; }; main "$@"'),
        (False, "A=1 nice python -m celery -A app worker\nexec sleep infinity"),
        (False, "# exec celery worker\ncelery worker"),
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
        ("if redis-cli ping; then exit 0; else exit 0; fi", True),
        ("if redis-cli ping; then echo ok; fi", True),
        ("if redis-cli ping; then exit 0; fi; exit 1", False),
        ("if redis-cli ping\nthen\n  exit 0\nelse\n  exit 1\nfi", False),
        ("if ! redis-cli ping; then exit 1; fi", False),
        ('sh -c "redis-cli ping || true"', True),
        ('sh -c "redis-cli ping || exit 1"', False),
        ("redis-cli ping | cat", True),
        ("redis-cli ping | tee /tmp/log", True),
        ("set -o pipefail; redis-cli ping | cat", False),
        ("cat /tmp/ready", False),
        ("redis-cli ping || test 1", True),
        ('test "$(redis-cli ping)" = PONG', False),
        ('[ "$(redis-cli ping)" = PONG ] || exit 1', False),
        ("redis-cli --version", True),
        ("rabbitmqctl version", True),
        ("redis-cli", True),
        ("redis-cli ping; exit 0; exit 1", True),
        ("(redis-cli ping; exit 1) || true", True),
        ("{ redis-cli ping || exit 1; }; true", False),
        ("until redis-cli ping; do sleep 1; done", False),
        ("echo 'a || true'; redis-cli ping", False),
        ("redis-cli ping && [ -f /x ]", False),
        ("((((", False),
    ],
)
def test_checks_that_never_fail_are_told(text, never_fails):
    """A health check is judged by the status it ends with."""
    assert always(text) is never_fails


def test_a_check_in_an_odd_form_is_told():
    """The first word of a list says what kind of check it is."""
    assert test_of({"test": ["redis-cli", "ping"]}).problem == "form"
    assert test_of({"test": ["CMD"]}).problem == "form"
    assert test_of({"test": ["CMD-SHELL", "redis-cli", "ping"]}).problem == "form"
    assert test_of({"test": ["CMD-SHELL", "redis-cli ping", "|| true"]}).problem == ""
    assert test_of({"test": []}).problem == "off"
    assert test_of(None).problem == "missing"
