"""Where RabbitMQ and Erlang's epmd are installed, and what a private node is configured with."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from grader.errors import LabFault

LOOPBACK = "127.0.0.1"
ADMIN = "lab-admin"
# Below the range that systems take outgoing connections from (32768 up on Linux, 49152 up on macOS
# and Windows). Else a client that tries again and again while the node is down may get the node's
# own port, connect to itself, and keep the node from coming back.
PORTS = range(20000, 32768)
CONTROL = "rabbitmqctl"
SCRIPTS = ("rabbitmq-server", "rabbitmq-env", "rabbitmq-defaults", CONTROL)
FOLDERS = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",  # Debian, Ubuntu, Fedora
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin",
    "/opt/rabbitmq/sbin",
)

CONFIG = """\
listeners.tcp.local = {host}:{amqp}
management.tcp.ip = {host}
management.tcp.port = {api}
default_user = {admin}
default_pass = {password}
default_user_tags.administrator = true
log.file = false
log.console = true
log.console.level = warning
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 10MB
"""
# Names are looked up here only, so that no helper processes (inet_gethost) are started.
INETRC = '{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n'
# Two schedulers are enough and leave the machine to the workers. File names are taken as bytes
# (+fnl), because the management plugin fails on folders that are not ASCII otherwise.
ERLANG = "+S 2:2 +SDcpu 2:2 +fnl -kernel inet_dist_use_interface {127,0,0,1}"


def find_installation() -> Path | None:
    """Return the sbin folder of a RabbitMQ whose scripts can be called directly, else None.

    Looked for in RABBITMQ_HOME, behind `rabbitmq-server` on PATH, and where packages put it. The
    command on PATH may be a wrapper that switches user; only the installation's own scripts do.
    """
    return next((folder for folder in map(_own_scripts, _folders()) if folder), None)


def _folders() -> Iterator[Path]:
    if home := os.environ.get("RABBITMQ_HOME"):
        yield Path(home, "sbin")
    if command := shutil.which("rabbitmq-server"):
        yield Path(command).resolve().parent
    for pattern in FOLDERS:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), key=_version, reverse=True)


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


def _own_scripts(folder: Path) -> Path | None:
    """Return where the folder's scripts really are, None if one is missing."""
    with contextlib.suppress(OSError):
        real = (folder / SCRIPTS[0]).resolve().parent
        if all((real / script).is_file() for script in SCRIPTS):
            return real
    return None


def find_epmd() -> str:
    """Return Erlang's epmd, which lies beside `erl` where it is not on PATH itself.

    Raises:
        LabFault: there is no `erl` on PATH, without which RabbitMQ's scripts do nothing.
    """
    erl = shutil.which("erl")
    beside = Path(erl).resolve().parent if erl else os.devnull
    found = shutil.which("epmd") or shutil.which("epmd", path=str(beside))
    if not (erl and found):
        raise LabFault("rabbitmq_no_erlang")
    return found


class Ports(NamedTuple):
    """The ports of one node: AMQP, the HTTP API, Erlang's distribution and epmd."""

    amqp: int
    api: int
    distribution: int
    epmd: int


def free_ports() -> Ports:
    """Return loopback ports that were free a moment ago; expect a race."""
    order = iter(random.SystemRandom().sample(PORTS, len(PORTS)))
    return Ports(*(next(filter(is_free, order)) for _ in Ports._fields))


def is_free(port: int) -> bool:
    """Whether a server could bind this loopback port now."""
    with socket.socket() as probe:
        # As servers do it, so that old connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return True
    return False


def write_files(folder: Path, ports: Ports, password: str) -> None:
    """Write a node's configuration, for this user's eyes only."""
    config = CONFIG.format(
        host=LOOPBACK, amqp=ports.amqp, api=ports.api, admin=ADMIN, password=password
    )
    files = {
        "rabbitmq.conf": config,
        "advanced.config": "[].\n",
        "environment": "",
        "plugins": "[rabbitmq_management].\n",
        "inetrc": INETRC,
        ".erlang.cookie": secrets.token_hex(16),
    }
    for name, text in files.items():
        with open(folder / name, "x", opener=_private) as file:
            file.write(text)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def environment(folder: Path, ports: Ports) -> dict[str, str]:
    """Return a node's whole environment; each path that has a default elsewhere is set."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LC_ALL": "C",
        "TZ": "UTC",
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_INETRC": f"{folder}/inetrc",
        "ERL_CRASH_DUMP_SECONDS": "0",
        "RABBITMQ_NODENAME": f"lab-{ports.amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_MNESIA_BASE": f"{folder}/data",
        "RABBITMQ_LOG_BASE": f"{folder}/log",
        "RABBITMQ_PID_FILE": f"{folder}/pid",
        "RABBITMQ_CONF_ENV_FILE": f"{folder}/environment",
        "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
        "RABBITMQ_CONFIG_FILES": f"{folder}/none",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
        # Bound to no core and never spinning: several nodes and the workers share the machine.
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
        # A smaller table of processes saves 15 MB.
        "RABBITMQ_MAX_NUMBER_OF_PROCESSES": "65536",
        # The script then becomes the node instead of waiting for it as its child.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
