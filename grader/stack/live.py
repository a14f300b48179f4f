"""The stack for work by hand: `lab up` starts it, `lab down` ends it, `lab env` tells the shell.

Its folder is an ordinary run's folder that belongs to its Redis server instead of a grader, so the
sweep leaves it alone for as long as that server lives.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from grader.errors import LabFault, NoBroker, UsageError
from grader.home import Home, base, ledger_processes, remove
from grader.process import kill, lives, spawn, wait_until
from grader.stack import redis

USUAL_REDIS, USUAL_FLOWER, USUAL_SHOP = 6379, 5555, 8001
SHOP = ("user", "order", "payment", "notification", "inventory", "analytics")
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Live:
    """What is up: service name -> URL, and the folder that holds it."""

    folder: Path
    services: dict[str, str]

    def environment(self, broker: str) -> dict[str, str]:
        """Return the variables that point Celery at the broker; UsageError if it is not up."""
        if broker not in self.services:
            raise UsageError("broker_not_up", broker=broker)
        shop = {n: url for n, url in self.services.items() if n.endswith("_service")}
        return {
            "CELERY_BROKER_URL": self.services[broker],
            "CELERY_RESULT_BACKEND": self.services["redis"],
            **{f"{name.upper()}_URL": url for name, url in shop.items()},
        }

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the stack; one that nobody has waited for yet is none."""
        return [p for p in ledger_processes(self.folder / "ledger.jsonl") if lives(p)]


def current() -> Live | None:
    """Return the stack that is up, None if there is none."""
    for state in sorted(base().glob("up-*/state.json")):
        with contextlib.suppress(OSError, ValueError):
            live = Live(state.parent, json.loads(state.read_text()))
            if live.processes():
                return live
    return None


def _turn() -> contextlib.AbstractContextManager[Any]:
    """Return a lock: of two calls at the same moment the second finds what the first started.

    It lies in the clone; who may not write there goes without.
    """
    folder = ROOT / ".lab"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
    return FileLock(folder / "up.lock") if os.access(folder, os.W_OK) else contextlib.nullcontext()


def up(rabbitmq: bool, flower: bool, services: bool = False, trouble: float = 0.0) -> Live:
    """Start what is not up yet and return the whole.

    Args:
        services: the six services of exercise 3_1 too.
        trouble: how many of a hundred requests to them meet a fault.

    Raises:
        NoBroker, LabFault: something can't be started; what this call started is ended again.
        UsageError: Flower is wanted and not installed.
    """
    if flower and importlib.util.find_spec("flower") is None:
        raise UsageError("no_flower")
    with _turn():
        return _up(rabbitmq, flower, services, trouble)


def _up(rabbitmq: bool, flower: bool, services: bool, trouble: float) -> Live:
    live = current() or _start_redis()
    try:
        if rabbitmq and "rabbitmq" not in live.services:
            live = _add(live, "rabbitmq", _start_rabbitmq(live))
        if flower and "flower" not in live.services:
            live = _add(live, "flower", _start_flower(live))
        if services and "user_service" not in live.services:
            live = _start_shop(live, trouble)
    except BaseException:
        if set(live.services) == {"redis"}:
            _down()
        raise
    return live


def _add(live: Live, name: str, url: str) -> Live:
    services = {**live.services, name: url}
    draft = live.folder / "state.draft"
    draft.write_text(json.dumps(services))
    draft.chmod(0o600)
    draft.replace(live.folder / "state.json")
    return Live(live.folder, services)


def _start_redis() -> Live:
    binary = redis.system_binary() or redis.embedded_binary()
    if binary is None:
        raise NoBroker("no_redis", choice="up")
    home = Home("up")
    try:
        port = usual_or_free(USUAL_REDIS)
        server = redis.RedisServer.start(home, binary, port, home.folder / "redis.log")
        home.belongs_to(server.child.pid)
        return _add(Live(home.folder, {}), "redis", server.url)
    except BaseException:
        kill(ledger_processes(home.ledger))
        home.close()
        raise


def usual_or_free(port: int) -> int:
    """Return the usual port of a service if nobody has it, else a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    return redis.free_port()


def _home_of(live: Live) -> Any:
    """Return the stack's folder in the shape of a Home, for what starts in it later."""
    home = Home.__new__(Home)
    home.folder, home.ledger = live.folder, live.folder / "ledger.jsonl"
    return home


def _start_rabbitmq(live: Live) -> str:
    from grader.stack import rabbitmq

    place = rabbitmq.find_installation()
    if place is None:
        raise NoBroker("no_rabbitmq")
    node = rabbitmq.Node.start(_home_of(live), place, log=live.folder / "rabbitmq.log")
    return str(rabbitmq.Namespace.open(node, tracing=False, name="hands-on").student_url)


def _start_flower(live: Live) -> str:
    port = usual_or_free(USUAL_FLOWER)
    broker = live.services.get("rabbitmq", live.services["redis"])
    command = [sys.executable, "-m", "celery", "flower", "--address=127.0.0.1", f"--port={port}"]
    env = {**os.environ, "CELERY_BROKER_URL": broker}
    log = live.folder / "flower.log"
    child = spawn(command, env=env, cwd=live.folder, ledger=live.folder / "ledger.jsonl", log=log)
    wait_until(
        lambda: _listens(port) or not child.alive,
        30,
        lambda: LabFault("flower_not_up", log=log.read_text()[-500:]),
    )
    if not child.alive:
        raise LabFault("flower_not_up", log=log.read_text()[-500:])
    return f"http://127.0.0.1:{port}"


def _start_shop(live: Live, trouble: float) -> Live:
    """Start the six services; their ledger lies in the stack's folder."""
    ports = {name: usual_or_free(USUAL_SHOP + n) for n, name in enumerate(SHOP)}
    ledger, log = live.folder / "shop-ledger.jsonl", live.folder / "shop.log"
    command = [sys.executable, "-m", "grader.services.shop", "--ledger", str(ledger)]
    command += ["--ports", json.dumps(ports), "--trouble", f"{trouble:g}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = spawn(command, env=env, cwd=live.folder, ledger=live.folder / "ledger.jsonl", log=log)
    wait_until(
        lambda: all(map(_listens, ports.values())) or not child.alive,
        30,
        lambda: LabFault("shop_not_up", log=log.read_text()[-500:]),
    )
    if not child.alive:
        raise LabFault("shop_not_up", log=log.read_text()[-500:])
    for name, port in ports.items():
        live = _add(live, f"{name}_service", f"http://127.0.0.1:{port}")
    return _add(live, "shop's ledger", str(ledger))


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def down() -> bool:
    """End the stack and return whether there was one."""
    with _turn():
        return _down()


def _down() -> bool:
    live = current()
    if live is None:
        return False
    processes = live.processes()
    kill(processes)
    psutil.wait_procs(processes, 5)
    remove(live.folder)
    with contextlib.suppress(OSError):
        live.folder.parent.rmdir()
    return True
