"""The compose stack of labs/docker-compose.yml, where a Docker engine answers."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

from grader.errors import LabFault, UsageError
from grader.exercise import ROOT

FILE = ROOT / "labs" / "docker-compose.yml"
PROJECT = "celery-lab"
# The compose file publishes the usual ports on loopback unless the environment says otherwise.
PORTS = {"redis": ("LAB_REDIS_PORT", 6379), "rabbitmq": ("LAB_RABBITMQ_PORT", 5672)}


@functools.cache
def engine() -> str:
    """Return the Docker engine's version, "" where none answers."""
    if not shutil.which("docker") or not _has_socket():
        return ""
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _has_socket() -> bool:
    """Whether an engine could be there; asking the client takes a tenth of a second."""
    places = (Path("/var/run/docker.sock"), Path.home() / ".docker" / "run" / "docker.sock")
    contexts = Path.home() / ".docker" / "contexts"
    return "DOCKER_HOST" in os.environ or contexts.exists() or any(p.exists() for p in places)


def _compose(*arguments: str, timeout: float = 300) -> str:
    command = ["docker", "compose", "-p", PROJECT, "-f", str(FILE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise LabFault("compose_failed", what=" ".join(arguments), error=done.stderr.strip()[-600:])
    return done.stdout


def running() -> tuple[str, ...]:
    """Return the names of the compose services that are up."""
    if not engine():
        return ()
    lines = _compose("ps", "--format", "json", timeout=20).splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return tuple(row["Service"] for row in rows if row.get("State") == "running")


def up(flower: bool = False) -> None:
    """Start the compose stack and wait until its health checks are green.

    Raises:
        UsageError: no Docker engine answers.
        LabFault: compose failed, with its last words.
    """
    if not engine():
        raise UsageError("no_engine")
    _compose(*(("--profile", "flower") if flower else ()), "up", "--detach", "--wait")


def down() -> bool:
    """Stop the compose stack, its volumes too; return whether it was up."""
    if not running():
        return False
    _compose("--profile", "flower", "down", "--volumes")
    return True


def url(service: str, start: bool = False) -> str | None:
    """Return the URL of a compose service that is up, None if it is not.

    Args:
        start: bring the stack up when it is not, because the user asked for compose by name.
    """
    if start and service not in running():
        up()
    if service not in running():
        return None
    variable, usual = PORTS[service]
    port = os.environ.get(variable, usual)
    scheme, rest = ("redis", "/0") if service == "redis" else ("amqp", "//")
    account = "" if service == "redis" else _rabbit_account()
    return f"{scheme}://{account}127.0.0.1:{port}{rest}"


def _rabbit_account() -> str:
    user = os.environ.get("LAB_RABBITMQ_USER", "lab")
    return f"{user}:{os.environ.get('LAB_RABBITMQ_PASSWORD', '')}@"
