"""The compose stack of labs/docker-compose.yml, where a Docker engine answers.

The passwords are drawn when the containers are made. They live in the containers alone and are read
from there: no file keeps them, and a stack that somebody started by hand serves as well.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from grader.errors import LabFault, UsageError
from grader.exercise import ROOT

FILE = ROOT / "labs" / "docker-compose.yml"
PROJECT = "celery-lab"
PLACE = ("--project-name", PROJECT, "--file", str(FILE))
UP_SECONDS = 900  # the first start fetches the images
SECONDS = 60

# A service's port in its container. Unless its variable says otherwise, the same one on loopback.
PORTS = {"redis": 6379, "rabbitmq": 5672, "flower": 5555}
API_PORT = 15672
VARIABLES = {
    6379: "LAB_REDIS_PORT",
    5672: "LAB_RABBITMQ_PORT",
    15672: "LAB_RABBITMQ_API_PORT",
    5555: "LAB_FLOWER_PORT",
}
# The variable that gives a service its password, and the one that holds it in the container.
PASSWORDS = {
    "redis": ("LAB_REDIS_PASSWORD", "REDISCLI_AUTH"),
    "rabbitmq": ("LAB_RABBITMQ_PASSWORD", "RABBITMQ_DEFAULT_PASS"),
}

# Docker says it in a dozen ways, from version to version and from system to system.
TAKEN = re.compile(r"127\.0\.0\.1:(\d+)\b[^\n]*?(?:already in use|already allocated)")
NO_IMAGE = re.compile(
    r"pull access denied|manifest unknown|failed to resolve|error pulling image|toomanyrequests"
    r"|docker\.io|no such host|TLS handshake timeout"
)


@functools.cache
def engine() -> str:
    """Return the Docker engine's version, "" where none answers."""
    if not shutil.which("docker") or not _has_socket():
        return ""
    try:
        return docker("version", "--format", "{{.Server.Version}}", timeout=10).strip()
    except LabFault:
        return ""


def _has_socket() -> bool:
    """Whether an engine could be there; asking the client takes a tenth of a second."""
    places = (Path("/var/run/docker.sock"), Path.home() / ".docker" / "run" / "docker.sock")
    contexts = Path.home() / ".docker" / "contexts"
    return "DOCKER_HOST" in os.environ or contexts.exists() or any(p.exists() for p in places)


@functools.cache
def _plugin() -> bool:
    """Whether the client knows `docker compose`; the older docker-compose is something else."""
    try:
        docker("compose", "version", "--short")
    except LabFault:
        return False
    return True


def docker(*arguments: str, timeout: float = SECONDS, env: Mapping[str, str] | None = None) -> str:
    """Run the Docker client and return what it printed.

    Raises:
        LabFault: it failed or took longer than `timeout` seconds.
    """
    command, pipe = ["docker", *arguments], subprocess.PIPE
    try:
        client = subprocess.Popen(
            command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
    except OSError as error:
        raise LabFault("cannot_start", program="docker", error=error) from error
    try:
        printed, complaint = client.communicate(timeout=timeout)
    except BaseException as error:
        # Compose is a child of the client, and would hold on to our pipes.
        with contextlib.suppress(OSError):
            os.killpg(client.pid, signal.SIGKILL)
        client.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise LabFault("docker_slow", what=_what(arguments), seconds=timeout) from None
        raise
    if client.returncode:
        raise _fault(_what(arguments), complaint.strip() or printed.strip() or "-")
    return printed


def _what(arguments: tuple[str, ...]) -> str:
    """Return the call as one would type it in the folder labs."""
    return " ".join(word for word in arguments if word not in PLACE)


def _fault(what: str, said: str) -> LabFault:
    """Return the error for what the client said when it failed."""
    if taken := TAKEN.search(said):
        return LabFault("compose_port_taken", port=taken[1], variable=_variable(taken[1]))
    if NO_IMAGE.search(said):
        return LabFault("compose_no_image", error=said.splitlines()[-1].strip())
    return LabFault("docker_failed", what=what, error=said[-600:])


def _variable(port: str) -> str:
    """Return the variable that chose this port."""
    for usual, variable in VARIABLES.items():
        if os.environ.get(variable, str(usual)) == port:
            return variable
    return " / ".join(VARIABLES.values())


def _compose(
    *arguments: str, timeout: float = SECONDS, passwords: Mapping[str, str] | None = None
) -> str:
    # The file can't be read without passwords, also where none is used.
    unused = {variable: os.environ.get(variable) or "-" for variable, _ in PASSWORDS.values()}
    env = {**os.environ, **(unused if passwords is None else passwords)}
    return docker("compose", *PLACE, *arguments, timeout=timeout, env=env)


def _containers() -> dict[str, dict[str, Any]]:
    """Return the stack's containers by service, also those that are not running.

    Raises:
        LabFault: the engine answers, but not to this question.
    """
    if not engine() or not _plugin():
        return {}
    return {row["Service"]: row for row in _rows(_compose("ps", "--all", "--format", "json"))}


def _rows(printed: str) -> list[dict[str, Any]]:
    """Return the objects: one list of them up to compose 2.20, one object a line since."""
    if printed.lstrip().startswith("["):
        return list(json.loads(printed))
    return [json.loads(line) for line in printed.splitlines() if line.strip()]


def _running() -> dict[str, dict[str, Any]]:
    """Return the containers that run. A stack that can't be asked is not up for us."""
    try:
        found = _containers()
    except (LabFault, ValueError, KeyError):
        return {}
    return {name: row for name, row in found.items() if row.get("State") == "running"}


def running() -> tuple[str, ...]:
    """Return the names of the compose services that are up."""
    return tuple(_running())


def up(flower: bool = False) -> None:
    """Start the compose stack and wait until its health checks are green.

    Raises:
        UsageError: no Docker engine answers, or the client has no compose plugin.
        LabFault: compose failed; the sentence says why.
    """
    if not engine():
        raise UsageError("no_engine")
    if not _plugin():
        raise UsageError("no_compose_plugin")
    profile = ("--profile", "flower") if flower else ()
    _compose(*profile, "up", "--detach", "--wait", timeout=UP_SECONDS, passwords=_passwords())


def _passwords() -> dict[str, str]:
    """Return the passwords to start with, without those that the user has chosen."""
    containers, found = _containers(), {}
    for service, (variable, inside) in PASSWORDS.items():
        if service in containers:
            found[variable] = _environment(containers[service]).get(inside, "")
        elif not _chosen(variable):
            found[variable] = secrets.token_hex(16)
            if service == "rabbitmq":
                # RabbitMQ keeps the password of its first start; data left by a container that is
                # gone could not be opened with a new one.
                docker("volume", "rm", "--force", f"{PROJECT}_rabbitmq-data")
    return found


def _chosen(variable: str) -> bool:
    """Whether the user has set the variable, in the environment or in labs/.env."""
    file = FILE.with_name(".env")
    written = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    line = rf"^\s*(?:export\s+)?{variable}\s*=\s*[^\s#]"
    return bool(os.environ.get(variable) or re.search(line, written, re.MULTILINE))


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that a container was made with."""
    printed = docker("inspect", "--format", "{{json .Config.Env}}", container["ID"])
    return dict(entry.split("=", 1) for entry in json.loads(printed) if "=" in entry)


def down() -> bool:
    """Remove the compose stack with all its data; return whether there was one.

    Raises:
        LabFault: compose failed; the sentence says why.
    """
    if not _containers():
        return False
    _compose("--profile", "flower", "down", "--volumes")
    return True


def url(service: str, start: bool = False) -> str | None:
    """Return the URL of a compose service that is up, None if it is not.

    For RabbitMQ, LAB_RABBITMQ_API in this process's environment then names the management API.

    Args:
        service: "redis", "rabbitmq" or "flower".
        start: bring the stack up when it is not, because the user asked for compose by name.

    Raises:
        UsageError, LabFault: as for `up`.
    """
    row = _running().get(service)
    if row is None and start:
        up(flower=service == "flower")
        row = _running().get(service)
    if row is None:
        return None
    place = f"127.0.0.1:{_published(row, PORTS[service])}"
    if service == "flower":
        return f"http://{place}"
    password = quote(_environment(row).get(PASSWORDS[service][1], ""), safe="")
    if service == "redis":
        return f"redis://:{password}@{place}/0"
    os.environ["LAB_RABBITMQ_API"] = f"http://127.0.0.1:{_published(row, API_PORT)}"
    return f"amqp://lab:{password}@{place}//"


def _published(row: Mapping[str, Any], port: int) -> int:
    """Return the port on loopback behind which the container's port is."""
    for entry in row.get("Publishers") or ():
        if entry.get("TargetPort") == port and entry.get("PublishedPort"):
            return int(entry["PublishedPort"])
    return int(os.environ.get(VARIABLES[port], port))
