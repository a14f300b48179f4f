"""A private RabbitMQ node: its own data, cookie, epmd and ports, on loopback only.

Erlang's starter would start epmd as a daemon that outlives the node. We start epmd ourselves before
the node, in the foreground; the node finds it, and both are ordinary children in the run's ledger.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import signal
import tempfile
from pathlib import Path

from grader.errors import LabFault
from grader.home import Home, no_space
from grader.process import Child, spawn, wait_until
from grader.stack import rabbit_install as install
from grader.stack.rabbit_api import External, Management
from grader.stack.rabbit_install import find_installation
from grader.stack.rabbit_namespace import Namespace, sweep_vhosts

__all__ = ["External", "Management", "Namespace", "Node", "find_installation", "sweep_vhosts"]

ATTEMPTS = 5
BOOT_SECONDS = 60.0
EPMD_SECONDS = 10.0
# Up to 3.12 a polite stop sleeps for five seconds after all messages are safe on disk.
STOP_SECONDS = 2.0
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The text of a line that RabbitMQ logged as an error, without its time and process.
COMPLAINT = re.compile(r"^\S+ \S+ \[error\] <[\d.]+> (.*\w.*)$", re.MULTILINE)


class Node:
    """A running private node; make it with `start`, end it with `stop`.

    Attributes:
        scheme, host, port: where AMQP is spoken.
        ports: all four of its ports.
        management: the HTTP API, as the administrator.
        child, epmd: the node's process and its port mapper; both are in the ledger.
    """

    scheme = "amqp"
    host = install.LOOPBACK

    def __init__(self, home: Home, installation: Path, log: Path | None) -> None:
        self._home, self._installation, self._log = home, installation, log
        self.ports = install.free_ports()
        self.port = self.ports.amqp
        password = secrets.token_hex(16)
        api = f"http://{self.host}:{self.ports.api}"
        self.management = Management(api, install.ADMIN, password)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="rabbitmq-", dir=home.folder))
            install.write_files(self.folder, self.ports, password)
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
                if "eaddrinuse" not in node._said() and all(map(install.is_free, node.ports)):
                    raise
        return cls(home, installation, log)._begin()

    def _begin(self) -> Node:
        try:
            self.epmd = self._spawn(
                install.find_epmd(), "-port", str(self.ports.epmd), "-address", self.host
            )
            wait_until(lambda: self._serves(self.epmd, self.ports.epmd), EPMD_SECONDS, self._fault)
            self.up()
        except BaseException:
            self.stop()
            raise
        return self

    def _spawn(self, *command: str) -> Child:
        return spawn(
            command,
            env=install.environment(self.folder, self.ports),
            cwd=self.folder,
            ledger=self._home.ledger,
            log=self._log,
        )

    @property
    def alive(self) -> bool:
        """Whether the node's process runs."""
        return self.child is not None and self.child.alive

    def up(self) -> None:
        """Start the node's process on its folder and ports, and wait until it can be used.

        Raises:
            LabFault: it does not come up; the sentence holds what it complained of.
        """
        self.child = self._spawn(str(self._installation / install.SCRIPTS[0]))
        wait_until(self._ready, BOOT_SECONDS, self._fault, every=0.05)

    def _ready(self) -> bool:
        # A node that finds a port taken needs five seconds to give up.
        if not self._log and "eaddrinuse" in self._said():
            raise self._fault()
        listens = self._serves(self.child, self.ports.amqp, self.ports.api)
        return listens and self.management.alive()

    def _serves(self, child: Child | None, *ports: int) -> bool:
        """Whether the child itself listens on the ports: a stranger there would not do."""
        if child is None or not child.alive:
            raise self._fault()
        return set(ports) <= listened(child)

    def _said(self) -> str:
        """Return what the node (before there is one: epmd) has printed."""
        if self._log:
            return self._log.read_text(errors="replace") if self._log.exists() else ""
        child = self.child or self.epmd
        return child.output.text if child else ""

    def _fault(self) -> LabFault:
        child = self.child or self.epmd
        if child and not child.alive:
            child.output.finish(0.2)
        text = COLOUR.sub("", self._said())
        lines = COMPLAINT.findall(text)[:6] or text.strip().splitlines()[-6:]
        lines = lines or [f"exit status {child.exit_code if child else None}"]
        return LabFault("rabbitmq_not_up", log="\n".join(line.strip()[:300] for line in lines))

    def down(self, hard: bool = False) -> None:
        """End the node's process and keep its data, so that `up` can start it again.

        Args:
            hard: kill it at once, as a crash would; else it saves its messages first.
        """
        if self.child is None:
            return
        if hard:
            self._settle()
        else:
            self.child.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not self.alive, STOP_SECONDS, TimeoutError)
        self.child.end()

    def _settle(self) -> None:
        """Have the node write down the queues and users that it knows.

        It confirms a message at once, but writes the declaration of its queue some time later: a
        crash within that moment loses both, and would be taken for somebody's mistake.
        """
        control = self._spawn(
            str(self._installation / install.CONTROL), "eval", "mnesia:sync_log()."
        )
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not control.alive, STOP_SECONDS, TimeoutError)
        control.end()

    def restart(self, hard: bool = False) -> None:
        """Stop the node and start it again with its data and ports; see `down` and `up`.

        Durable queues and persistent messages survive. The firehose does not: call the namespace's
        `trace()` again.
        """
        self.down(hard)
        self.up()

    def stop(self) -> None:
        """End the node and its epmd for good, at once: nothing of its data is kept."""
        self.management.close()
        if self.child:
            self.child.end()
        if self.epmd:
            self.epmd.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    close = stop


def listened(child: Child) -> set[int]:
    """Return the TCP ports that a child and its descendants listen on."""
    import psutil

    found = set()
    for process in child.family:
        with contextlib.suppress(psutil.Error):
            for entry in process.net_connections("tcp"):
                if entry.status == psutil.CONN_LISTEN:
                    found.add(entry.laddr.port)
    return found
