"""`lab up`, `lab status`, `lab env` and `lab down`: servers for work by hand, and their end."""

import json
import os
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests
from redis import Redis

from grader.exercise import ROOT
from grader.process import wait_until
from grader.stack.live import SHOP

ALONE = {"start_new_session": True, "text": True, "cwd": ROOT}


class Desk:
    """Calls of `lab` that share a temporary folder of their own."""

    def __init__(self, temp: Path) -> None:
        self.temp = temp
        self.command = [sys.executable, "-m", "grader"]
        self.env = {**os.environ, "TMPDIR": str(temp)}

    def lab(self, *arguments):
        done = subprocess.run(
            [*self.command, *arguments], env=self.env, capture_output=True, timeout=90, **ALONE
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self.command, *arguments], env=self.env, **pipes, **ALONE)

    def exports(self, *arguments):
        """Return what `lab env` exports, read as a shell reads it."""
        lines = self.lab("env", *arguments).stdout.splitlines()
        words = [shlex.split(line) for line in lines]
        assert all(word[0] == "export" and len(word) == 2 for word in words)
        return dict(word[1].split("=", 1) for word in words)

    @property
    def pids(self):
        """The living processes that the stacks of this folder wrote into their ledgers."""
        found = set()
        for ledger in self.temp.glob("*/up-*/ledger.jsonl"):
            for line in ledger.read_text().splitlines():
                pid = json.loads(line)["pid"]
                with suppress(psutil.NoSuchProcess):
                    if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                        found.add(pid)
        return found


@pytest.fixture
def desk(tmp_path):
    """A temporary folder where nothing is up, and nothing is left up."""
    made = Desk(tmp_path)
    yield made
    made.lab("down")
    assert made.pids == set()


@contextmanager
def taken(*ports):
    """Have these ports taken by somebody; one that another program has is taken anyway."""
    with ExitStack() as stack:
        for port in ports:
            probe = stack.enter_context(closing(socket.socket()))
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                probe.listen()
        yield


def test_nothing_is_up(desk):
    """Each command says so, and what to type; only `down` calls that a success."""
    status, env, down = desk.lab("status"), desk.lab("env"), desk.lab("down")

    assert (status.returncode, status.stdout) == (1, "Nothing is up. Start with: lab up\n")
    assert env.returncode == 2
    assert "lab up" in env.stderr and env.stdout == ""
    assert (down.returncode, down.stdout) == (0, "Nothing was up.\n")


def test_redis_from_up_to_down(desk):
    """Redis answers at the exported URL, a second `up` keeps it, and `down` leaves nothing."""
    first = desk.lab("up")
    before = desk.pids
    second = desk.lab("up")
    exports = desk.exports()

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert desk.pids == before != set()
    assert set(exports) == {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"}
    with closing(Redis.from_url(exports["CELERY_BROKER_URL"])) as server:
        assert server.ping()
    assert desk.lab("status").stdout.split() == ["redis", exports["CELERY_BROKER_URL"]]
    assert desk.lab("env", "--broker", "rabbitmq").returncode == 2

    assert desk.lab("down").stdout == "Stopped.\n"
    assert desk.pids == set()
    assert list(desk.temp.glob("*/up-*")) == []


def test_two_ups_at_once_are_one(desk):
    """Of two calls at the same moment one starts Redis, the other finds it."""
    calls = [desk.start("up") for _ in range(2)]
    said = [call.communicate(timeout=60) for call in calls]

    assert [call.returncode for call in calls] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert len(list(desk.temp.glob("*/up-*"))) == 1


def test_the_six_services(desk):
    """They answer at their variables, write the ledger that `up` names, and go with `down`."""
    with taken(8001, 8004):
        up = desk.lab("up", "--services")
    exports = desk.exports()
    urls = {name: exports[f"{name.upper()}_SERVICE_URL"] for name in SHOP}

    assert up.returncode == 0, up.stderr
    for name, url in urls.items():
        answer = requests.get(f"{url}/health", timeout=5)
        assert answer.json() == {"status": "ok", "service": f"{name}_service"}
        assert "paths" in requests.get(f"{url}/openapi.json", timeout=5).json()
    ledger = Path(up.stdout.split("shop's ledger")[1].split()[0])
    body = {"event_type": "seen", "data": {"order_id": "o-17"}}
    requests.post(f"{urls['analytics']}/track", json=body, timeout=5).raise_for_status()
    assert any("o-17" in line for line in ledger.read_text().splitlines())
    assert desk.lab("status").stdout.count("http://127.0.0.1:") == len(SHOP)

    desk.lab("down")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{urls['user']}/health", timeout=5)


def test_services_in_trouble(desk):
    """With --trouble 100 each request meets a fault, most of them more than a short delay."""
    desk.lab("up", "--services", "--trouble", "100")
    url = desk.exports()["ANALYTICS_SERVICE_URL"]
    body = {"event_type": "seen", "data": {"order_id": "o-17"}}

    def well():
        try:
            answer = requests.post(f"{url}/track", json=body, timeout=1)
            return answer.ok and "event_id" in answer.json()
        except (requests.RequestException, ValueError):
            return False

    assert sum(well() for _ in range(15)) < 8
    assert desk.lab("up", "--trouble", "101").returncode == 2


def test_services_beside_a_redis_that_is_up(desk):
    """`lab up --services` after `lab up` adds to what is there."""
    desk.lab("up")
    redis = desk.exports()["CELERY_BROKER_URL"]
    desk.lab("up", "--services")

    exports = desk.exports()
    assert exports["CELERY_BROKER_URL"] == redis
    assert len(exports) == 2 + len(SHOP)


def test_rabbitmq_too(desk):
    """With RabbitMQ up the exports point at it, and Redis keeps the results."""
    up = desk.lab("up", "--rabbitmq")
    if up.returncode == 3 and os.environ.get("LAB_REQUIRE_RABBITMQ") != "1":
        pytest.skip("RabbitMQ is not installed")
    exports = desk.exports()

    assert up.returncode == 0, up.stderr
    assert exports["CELERY_BROKER_URL"].startswith("amqp://")
    assert exports["CELERY_RESULT_BACKEND"].startswith("redis://")
    assert desk.exports("--broker", "redis")["CELERY_BROKER_URL"].startswith("redis://")


def test_a_stack_whose_servers_died_is_gone(desk):
    """After its processes were ended from outside, `status` says so and `up` starts anew."""
    desk.lab("up")
    for pid in desk.pids:
        psutil.Process(pid).kill()
    wait_until(lambda: not desk.pids, 5, lambda: AssertionError("still alive"))

    assert desk.lab("status").returncode == 1
    assert desk.lab("up").returncode == 0
    with closing(Redis.from_url(desk.exports()["CELERY_BROKER_URL"])) as server:
        assert server.ping()
