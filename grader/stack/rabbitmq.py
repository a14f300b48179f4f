"""A private RabbitMQ node: its own data, cookie, epmd and ports, on loopback only.

Erlang's starter would start epmd as a daemon that outlives the node. We start epmd ourselves before
the node, in the foreground; the node finds it and both are ordinary children in the run's ledger.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from grader.errors import LabFault
from grader.home import Home, no_space
from grader.process import Child, spawn, wait_until
from grader.stack.rabbit_api import External, Management
from grader.stack.rabbit_namespace import Namespace, sweep_vhosts

__all__ = ["External", "Management", "Namespace", "Node", "find_installation", "sweep_vhosts"]

LOOPBACK = "127.0.0.1"
ADMIN = "lab-admin"
ATTEMPTS = 5
BOOT_SECONDS = 60.0
EPMD_SECONDS = 10.0
# Up to 3.12 a polite stop sleeps for five seconds after all messages are safe on disk.
STOP_SECONDS = 2.0
# Below the range that systems take outgoing connections from (32768 up on Linux, 49152 up on macOS
# and Windows). Else a client that tries again and again while the node is down may get the node's
# own port, connect to itself, and keep the node from coming back.
PORTS = range(20000, 32768)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The text of a line that RabbitMQ logged as an error, without its time and process.
COMPLAINT = re.compile(r"^\S+ \S+ \[error\] <[\d.]+> (.*\w.*)$", re.MULTILINE)
SCRIPTS = ("rabbitmq-server", "rabbitmq-env", "rabbitmq-defaults")
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
# Two schedulers, bound to no core, are enough and leave the machine to the workers. File names are
# taken as bytes (+fnl), because the management plugin fails on other than ASCII folders otherwise.
ERLANG = "+S 2:2 +SDcpu 2:2 +fnl -kernel inet_dist_use_interface {127,0,0,1}"


def find_installation() -> Path | None:
    """Return the sbin folder of a RabbitMQ whose scripts can be called directly, else None.

    Looked for in RABBITMQ_HOME, behind `rabbitmq-server` on PATH, and where packages put it. The
    command on PATH may be a wrapper that switches user; only the installation's own scripts will do.
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


def free_ports(count: int) -> list[int]:
    """Return so many loopback ports that were free a moment ago; expect a race."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a server could bind this loopback port now."""
    with socket.socket() as probe:
        # As servers do it, so that connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return True
    return False


def listened(child: Child) -> set[int]:
    """Return the TCP ports that a child and its descendants listen on."""
    found = set()
    for process in child.family:
        with contextlib.suppress(psutil.Error):
            for entry in process.net_connections("tcp"):
                if entry.status == psutil.CONN_LISTEN:
                    found.add(entry.laddr.port)
    return found


def _epmd() -> str:
    """Return Erlang's epmd; where it is not on PATH it lies beside `erl`."""
    erl = shutil.which("erl")
    beside = str(Path(erl).resolve().parent) if erl else None
    found = shutil.which("epmd") or shutil.which("epmd", path=beside or os.devnull)
    if not (erl and found):
        raise LabFault("rabbitmq_no_erlang")
    return found


class Node:
    """A running private node; make it with `start`, end it with `stop`.

    Attributes:
        scheme, host, port: where AMQP is spoken.
        management: the HTTP API, as the administrator.
        child: the node's process; `epmd` its port mapper. After `start` both are in the ledger.
    """

    scheme = "amqp"
    host = LOOPBACK

    def __init__(self, home: Home, installation: Path, log: Path | None) -> None:
        self._home, self._installation, self._log = home, installation, log
        self.port, self._api, self._distribution, self._mapper = free_ports(4)
        password = secrets.token_hex(16)
        self.management = Management(f"http://{LOOPBACK}:{self._api}", ADMIN, password)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="rabbitmq-", dir=home.folder))
            self._write_files(password)
        except OSError as error:
            raise no_space(error, home.folder) from error
        self.epmd: Child | None = None
        self.child: Child | None = None

    @classmethod
    def start(cls, home: Home, installation: Path, log: Path | None = None) -> Node:
        """Start a node and wait until it can be used.

        Args:
            home: the run's folder; the node's folder is made in it and it keeps the ledger.
            installation: what `find_installation` returned.
            log: write the node's log to this file, so that the node can outlive this process.

        Raises:
            LabFault: it does not come up; the sentence holds what it complained of.
        """
        for _ in range(ATTEMPTS - 1):
            node = cls(home, installation, log)
            try:
                return node._begin()
            except LabFault:
                # Someone may have taken a port between our look and the node's bind.
                if all(map(is_free, node.ports)):
                    raise
        return cls(home, installation, log)._begin()

    def _begin(self) -> Node:
        try:
            self._start_epmd()
            self.up()
        except BaseException:
            self.stop()
            raise
        return self

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports of AMQP, the HTTP API, Erlang's distribution and epmd."""
        return self.port, self._api, self._distribution, self._mapper

    @property
    def alive(self) -> bool:
        """Whether the node's process runs."""
        return self.child is not None and self.child.alive

    def _write_files(self, password: str) -> None:
        config = CONFIG.format(
            host=LOOPBACK, amqp=self.port, api=self._api, admin=ADMIN, password=password
        )
        cookie = secrets.token_hex(16)
        for name, text in {
            "rabbitmq.conf": config,
            "advanced.config": "[].\n",
            "environment": "",
            "plugins": "[rabbitmq_management].\n",
            "inetrc": INETRC,
            ".erlang.cookie": cookie,
        }.items():
            with open(self.folder / name, "x", opener=_private) as file:
                file.write(text)

    def _environment(self) -> dict[str, str]:
        """Return the whole environment; every path that has a default elsewhere is set."""
        here = str(self.folder)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": here,
            "LC_ALL": "C",
            "TZ": "UTC",
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_INETRC": f"{here}/inetrc",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"lab-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": f"{here}/data",
            "RABBITMQ_LOG_BASE": f"{here}/log",
            "RABBITMQ_PID_FILE": f"{here}/pid",
            "RABBITMQ_CONF_ENV_FILE": f"{here}/environment",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq.conf",
            "RABBITMQ_CONFIG_FILES": f"{here}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{here}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
            # Tables sized for this many processes: saves 15 MB.
            "RABBITMQ_MAX_NUMBER_OF_PROCESSES": "65536",
            # The script then becomes the node instead of waiting for it as its child.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _spawn(self, *command: str) -> Child:
        return spawn(
            command,
            env=self._environment(),
            cwd=self.folder,
            ledger=self._home.ledger,
            log=self._log,
        )

    def _start_epmd(self) -> None:
        self.epmd = self._spawn(_epmd(), "-port", str(self._mapper), "-address", LOOPBACK)
        wait_until(lambda: self._serves(self.epmd, self._mapper), EPMD_SECONDS, self._fault)

    def up(self) -> None:
        """Start the node's process on its folder and ports, and wait until it can be used.

        Raises:
            LabFault: it does not come up; the sentence holds what it complained of.
        """
        self.child = self._spawn(str(self._installation / SCRIPTS[0]))
        wait_until(self._ready, BOOT_SECONDS, self._fault, every=0.05)

    def _ready(self) -> bool:
        return self._serves(self.child, self.port, self._api) and self.management.alive()

    def _serves(self, child: Child | None, *ports: int) -> bool:
        """Whether the child itself listens on the ports: a stranger there would not do."""
        if child is None or not child.alive:
            raise self._fault()
        return set(ports) <= listened(child)

    def _fault(self) -> LabFault:
        child = self.child or self.epmd
        text = child.output.finish(0.2) if child else ""
        if self._log and self._log.exists():
            text = self._log.read_text(errors="replace")
        text = COLOUR.sub("", text)
        lines = COMPLAINT.findall(text)[:6] or text.strip().splitlines()[-6:]
        if child and not child.alive and not lines:
            lines = [f"{Path(child.process.args[0]).name}: exit status {child.exit_code}"]
        return LabFault("rabbitmq_not_up", log="\n".join(line.strip()[:300] for line in lines))

    def down(self, hard: bool = False) -> None:
        """End the node's process and keep its data, so that `up` can start it again.

        Args:
            hard: kill it at once, as a crash would; else let it save its messages first.
        """
        if self.child is None:
            return
        if not hard:
            self.child.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not self.alive, STOP_SECONDS, TimeoutError)
        self.child.end()

    def restart(self, hard: bool = False) -> None:
        """Stop the node and start it again with its data and ports; see `down` and `up`.

        Durable queues and persistent messages survive. Namespace.trace() must be called again.
        """
        self.down(hard)
        self.up()

    def stop(self) -> None:
        """End the node and its epmd for good; nothing of its data is kept."""
        self.management.close()
        self.down(hard=True)
        if self.epmd:
            self.epmd.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
