"""`lab up`, `lab status`, `lab env` and `lab down`: servers for work by hand, and their end."""

import json
import os
import shlex
import socket
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests
from redis import Redis

from grader.process import lives, wait_until
from grader.stack.live import SHOP


def exports(copy, *arguments):
    """Return what `lab env` exports, read as a shell reads it."""
    lines = copy.lab("env", *arguments).stdout.splitlines()
    words = [shlex.split(line) for line in lines]
    assert all(word[0] == "export" and len(word) == 2 for word in words)
    return dict(word[1].split("=", 1) for word in words)


def pids(copy):
    """Return the living processes that the stacks of this copy wrote into their ledgers."""
    found = set()
    for ledger in copy.temp.glob("*/up-*/ledger.jsonl"):
        for line in ledger.read_text().splitlines():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(json.loads(line)["pid"])
                found |= {process.pid} if lives(process) else set()
    return found


@pytest.fixture
def desk(copy):
    """A copy of the project where nothing is up, and nothing is left up."""
    yield copy
    copy.lab("down")
    assert pids(copy) == set()


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
    assert not any("Traceback" in call.stderr for call in (status, env, down))
    assert "lab up" in env.stderr and env.stdout == ""
    assert (down.returncode, down.stdout) == (0, "Nothing was up.\n")


def test_redis_from_up_to_down(desk):
    """Redis answers at the exported URL, a second `up` keeps it, and `down` leaves nothing."""
    first = desk.lab("up")
    before = pids(desk)
    second = desk.lab("up")
    shown = exports(desk)

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert pids(desk) == before != set()
    assert set(shown) == {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"}
    with closing(Redis.from_url(shown["CELERY_BROKER_URL"])) as server:
        assert server.ping()
    assert desk.lab("status").stdout.split() == ["redis", shown["CELERY_BROKER_URL"]]
    refused = desk.lab("env", "--broker", "rabbitmq")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr

    assert desk.lab("down").stdout == "Stopped.\n"
    assert pids(desk) == set()
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
    shown = exports(desk)
    urls = {name: shown[f"{name.upper()}_SERVICE_URL"] for name in SHOP}

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
    url = exports(desk)["ANALYTICS_SERVICE_URL"]
    body = {"event_type": "seen", "data": {"order_id": "o-17"}}

    def well():
        try:
            answer = requests.post(f"{url}/track", json=body, timeout=1)
            return answer.ok and "event_id" in answer.json()
        except (requests.RequestException, ValueError):
            return False

    assert sum(well() for _ in range(15)) < 8
    refused = desk.lab("up", "--trouble", "101")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr


def test_services_beside_a_redis_that_is_up(desk):
    """`lab up --services` after `lab up` adds to what is there."""
    desk.lab("up")
    redis = exports(desk)["CELERY_BROKER_URL"]
    desk.lab("up", "--services")

    shown = exports(desk)
    assert shown["CELERY_BROKER_URL"] == redis
    assert len(shown) == 2 + len(SHOP)


def test_rabbitmq_too(desk):
    """With RabbitMQ up the exports point at it, and Redis keeps the results."""
    up = desk.lab("up", "--rabbitmq")
    if up.returncode == 3 and os.environ.get("LAB_REQUIRE_RABBITMQ") != "1":
        pytest.skip("RabbitMQ is not installed")
    shown = exports(desk)

    assert up.returncode == 0, up.stderr
    assert shown["CELERY_BROKER_URL"].startswith("amqp://")
    assert shown["CELERY_RESULT_BACKEND"].startswith("redis://")
    assert exports(desk, "--broker", "redis")["CELERY_BROKER_URL"].startswith("redis://")


def test_a_stack_whose_servers_died_is_gone(desk):
    """After its processes were ended from outside, `status` says so and `up` starts anew."""
    desk.lab("up")
    for pid in pids(desk):
        psutil.Process(pid).kill()
    wait_until(lambda: not pids(desk), 5, lambda: AssertionError("still alive"))

    assert desk.lab("status").returncode == 1
    assert desk.lab("up").returncode == 0
    with closing(Redis.from_url(exports(desk)["CELERY_BROKER_URL"])) as server:
        assert server.ping()
