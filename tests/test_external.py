"""Redis that somebody else runs (LAB_REDIS_URL): leases of its databases and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import redis

from grader.errors import NoBroker
from grader.exercise import SOLUTIONS, find
from grader.home import Home
from grader.process import identity
from grader.stack.lease import (
    DATABASES,
    LEASE_KEY,
    LEASE_SECONDS,
    REGISTRY,
    Lease,
    _replace,
    with_database,
    with_user,
)
from grader.stack.provider import Stack
from grader.stack.rabbit_namespace import machine
from grader.stack.redis import (
    RedisServer,
    connect,
    embedded_binary,
    free_port,
    system_binary,
)

BINARIES = {"embedded": embedded_binary, "system": system_binary}
# A grader that takes a lease, uses it, says so and waits.
HOLDER = """
import sys
from grader.stack.lease import Lease
from grader.stack.redis import connect
lease = Lease.take(sys.argv[1])
connect(lease.student_url).set("left", "behind")
print(lease.student_url, flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=BINARIES)
def server(request):
    """Somebody's server; for us it is only a URL."""
    binary = BINARIES[request.param]()
    if binary is None:
        pytest.skip(f"this machine has no {request.param} Redis")
    with Home("test") as home:
        server = RedisServer.start(home, binary)
        yield server
        server.stop()


@pytest.fixture
def owner(server):
    """The client of the server's owner."""
    with connect(server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def stack(server, monkeypatch):
    """A stack that may use this server only."""
    monkeypatch.setenv("LAB_REDIS_URL", server.url)
    with Home("test") as home, Stack(home, "external") as stack:
        yield stack


@pytest.fixture
def holder(server):
    """Start a grader of another process that holds a lease; return it and its student's URL."""
    started = []

    def start() -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", HOLDER, server.url]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def used(owner) -> dict[int, int]:
    """Return database -> number of keys for every database that is not empty."""
    return {int(name[2:]): row["keys"] for name, row in owner.info("keyspace").items()}


def users(owner) -> set[str]:
    return set(owner.execute_command("ACL", "USERS"))


def number(url: str) -> int:
    return int(url.rpartition("/")[2])


def at(server, database: int) -> redis.Redis:
    """Return a client of the server's owner for one database."""
    return connect(with_database(server.url, database), decode_responses=True)


def write_claim(server, database: int, **changes) -> str:
    """Write a lease of this very process into the registry, or a variation of it."""
    claim = {
        "machine": machine(),
        **identity(psutil.Process()),
        "at": at(server, REGISTRY).time()[0],
        "user": "lab-someone",
    }
    text = json.dumps({**claim, **changes})
    at(server, REGISTRY).set(LEASE_KEY.format(database), text)
    at(server, database).set("left", "behind")
    return text


# Leases


def test_two_runs_take_different_databases(stack, owner):
    """Two namespaces that are open at once have a database each, and neither sees the other's."""
    one, two = stack.open("redis"), stack.open("redis")

    assert len({number(one.student_broker), number(two.student_broker)} & set(DATABASES)) == 2
    connect(one.student_broker).set("key", "one")
    assert connect(two.student_broker).get("key") is None
    one.close()
    two.close()
    assert used(owner) == {}


def test_runs_at_the_same_moment_take_different_databases(server, owner):
    """Fourteen threads that ask at once get fourteen databases."""
    together = threading.Barrier(len(DATABASES))

    def take(_: int) -> Lease:
        together.wait(30)
        return Lease.take(server.url)

    with ThreadPoolExecutor(len(DATABASES)) as pool:
        leases = list(pool.map(take, DATABASES))

    assert sorted(number(lease.url) for lease in leases) == list(DATABASES)
    for lease in leases:
        lease.close()
    assert used(owner) == {}


def test_what_is_there_is_left_alone(stack, server, owner):
    """A database with data in it is not taken, and neither a run nor its end touches the data."""
    for database in (0, 1, 3, REGISTRY):
        at(server, database).set("mine", database)

    spaces = [stack.open("redis") for _ in range(2)]
    taken = [number(space.student_broker) for space in spaces]
    for space in spaces:
        space.close()

    assert taken == [2, 4]
    assert used(owner) == {0: 1, 1: 1, 3: 1, REGISTRY: 1}
    assert all(int(at(server, d).get("mine")) == d for d in (0, 1, 3, REGISTRY))


def test_a_lease_is_given_back_empty(stack, owner):
    """After the run the database is empty, its user is gone, and the next run gets it."""
    space = stack.open("redis")
    student = connect(space.student_broker)
    student.set("key", "value")
    assert len(users(owner)) == 3

    space.close()

    assert used(owner) == {} and users(owner) == {"default", "student"}
    with pytest.raises(redis.RedisError):
        student.get("key")
    again = stack.open("redis")
    assert number(again.student_broker) == number(space.student_broker)
    again.close()


def test_a_lease_that_was_lost_is_not_emptied(server, owner):
    """Whoever has lost a lease to another leaves that one's data and user alone at its end."""
    lease = Lease.take(server.url)
    write_claim(server, 1)

    lease.close()

    assert at(server, 1).get("left") == "behind"
    assert used(owner) == {1: 1, REGISTRY: 1}


# What a submission may do there


FORBIDDEN = (
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET *",
    "CONFIG SET save 1",
    "SHUTDOWN",
    "SHUTDOWN NOSAVE",
    "SELECT 0",
    "SELECT 2",
    f"SELECT {REGISTRY}",
    "SWAPDB 0 1",
    "MOVE key 2",
    "COPY key key DB 2",
    "ACL LIST",
    "ACL SETUSER default nopass",
    "CLIENT KILL TYPE normal",
    "DEBUG SLEEP 1",
    "FUNCTION FLUSH",
    "SCRIPT FLUSH",
    "MONITOR",
    "REPLICAOF 127.0.0.1 1",
    "SAVE",
)


@pytest.mark.parametrize("command", FORBIDDEN)
def test_the_submission_administers_nothing(stack, command):
    """The submission's user may neither administer the server nor leave its database."""
    space = stack.open("redis")
    with connect(space.student_broker) as student:
        student.set("key", "value")

        with pytest.raises(redis.RedisError):
            student.execute_command(*command.split())

        assert student.get("key") == b"value"
    space.close()


def test_a_script_of_the_submission_gets_no_further(stack, owner):
    """A Lua script has the rights of the user that runs it."""
    space = stack.open("redis")
    with connect(space.student_broker) as student:
        with pytest.raises(redis.RedisError):
            student.eval("redis.call('select', 2) return redis.call('set', 'a', 'b')", 0)
        with pytest.raises(redis.RedisError):
            student.eval("return redis.call('flushall')", 0)
    assert 2 not in used(owner)
    space.close()


def test_ordinary_commands_work(stack):
    """What Celery and ordinary programs use is allowed: keys, scripts, transactions, channels."""
    space = stack.open("redis")
    with connect(space.student_broker, decode_responses=True) as student:
        with student.pipeline() as pipe:
            pipe.lpush("list", 2, 1).expire("list", 60)
            pipe.execute()
        assert student.sort("list") == ["1", "2"] and student.keys() == ["list"]
        assert student.register_script("return redis.call('llen', KEYS[1])")(["list"]) == 2
        assert student.publish("channel", "message") == 0
        assert student.info("server")["redis_version"]
    space.close()


def test_without_the_right_to_make_users_the_lease_works(server, owner):
    """Where the URL's own user may not make users, the submission gets the URL itself."""
    owner.execute_command("ACL", "SETUSER", "plain", "on", ">word", "~*", "&*", "+@all", "-acl")
    lease = Lease.take(with_user(server.url, "plain", "word"))

    assert lease.student_url == lease.url
    connect(lease.student_url).set("key", "value")
    lease.close()
    assert used(owner) == {} and "plain" in users(owner)


@pytest.mark.parametrize("server", ["system"], indirect=True)
def test_a_solution_gets_full_points_there(server, owner, monkeypatch):
    """The reference solution of 1_2 is graded on somebody's Redis, and nothing stays behind."""
    from grader.grading import Order, grade_all

    monkeypatch.setenv("LAB_REDIS_URL", server.url)
    owner.set("mine", "yes")

    (result,) = grade_all(
        [Order(find("1_2"), SOLUTIONS / "1_2")],
        broker="redis",
        stack="external",
        required=(),
        seed=7,
        lang="en",
        tell=lambda line: None,
    )

    assert [f for f in result.findings if f.points < f.max_points] == []
    assert result.score == result.max_score > 0
    assert used(owner) == {0: 1} and users(owner) == {"default", "student"}


# Errors


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_server_that_does_not_answer(stack, monkeypatch, lang):
    """The sentence names the URL, without its password, and the variable."""
    port = free_port()
    monkeypatch.setenv("LAB_REDIS_URL", f"redis://user:secret@127.0.0.1:{port}/0")

    with pytest.raises(NoBroker) as caught:
        stack.open("redis")

    said = caught.value.text.render(lang)
    assert f"127.0.0.1:{port}" in said and "LAB_REDIS_URL" in said and "secret" not in said


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_server_without_a_free_database(stack, server, owner, lang):
    """With data in every database the sentence says so, and the data stay."""
    for database in DATABASES:
        at(server, database).set("mine", "yes")

    with pytest.raises(NoBroker) as caught:
        stack.open("redis")

    assert "14" in caught.value.text.render(lang) and "flushdb" in caught.value.text.render(lang)
    assert used(owner) == dict.fromkeys(DATABASES, 1)


def test_a_server_that_refuses(stack, server, owner, monkeypatch):
    """A user without rights is told what the server said."""
    owner.execute_command("ACL", "SETUSER", "poor", "on", ">word", "~*", "+get", "+select")
    monkeypatch.setenv("LAB_REDIS_URL", with_user(server.url, "poor", "word"))

    with pytest.raises(NoBroker, match=r"refuses what the lab needs: .*permission"):
        stack.open("redis")


# Leases of the dead


def test_the_lease_of_a_killed_grader_is_given_back(server, owner, holder):
    """After SIGKILL of its holder, the next run empties the database and drops the user."""
    process, student_url = holder()
    assert used(owner) == {1: 1, REGISTRY: 1} and len(users(owner)) == 3

    process.send_signal(signal.SIGKILL)
    process.wait(10)
    lease = Lease.take(server.url)

    assert number(lease.url) == 1 and connect(lease.url).dbsize() == 0
    with pytest.raises(redis.RedisError):
        connect(student_url).ping()
    lease.close()
    assert used(owner) == {} and users(owner) == {"default", "student"}


def test_all_leases_of_the_dead_are_given_back(server, owner, holder):
    """One run sweeps every database whose holder was killed, not only the one it takes."""
    holders = [holder()[0] for _ in range(3)]
    for process in holders:
        process.kill()
        process.wait(10)

    Lease.take(server.url).close()

    assert used(owner) == {} and users(owner) == {"default", "student"}


def test_the_lease_of_a_living_grader_is_left_alone(server, owner, holder):
    """A run takes another database as long as the holder lives."""
    _, student_url = holder()

    lease = Lease.take(server.url)

    assert number(lease.url) == 2
    lease.close()
    assert connect(student_url).get("left") == b"behind"


def test_a_reused_process_id_is_not_the_holder(server, owner):
    """A lease whose process id now belongs to a younger process is given back."""
    write_claim(server, 1, pid=os.getpid(), started=1.0)

    lease = Lease.take(server.url)

    assert number(lease.url) == 1
    lease.close()
    assert used(owner) == {}


def test_another_machine_is_believed_for_a_while(server, owner):
    """Of another machine's processes nothing is known: its lease is left alone until it is old."""
    now = owner.time()[0]
    write_claim(server, 1, machine="elsewhere", pid=1, at=now - LEASE_SECONDS + 60)
    write_claim(server, 2, machine="elsewhere", pid=1, at=now - LEASE_SECONDS - 1)

    lease = Lease.take(server.url)

    assert number(lease.url) == 2
    lease.close()
    assert used(owner) == {1: 1, REGISTRY: 1}


def test_a_claim_that_nobody_understands_is_left_alone(server, owner):
    """What somebody else wrote into the registry is not ours to judge."""
    for database, text in ((1, "?"), (2, "17"), (3, "{}")):
        at(server, REGISTRY).set(LEASE_KEY.format(database), text)
        at(server, database).set("mine", "yes")

    lease = Lease.take(server.url)

    assert number(lease.url) == 4
    lease.close()
    assert used(owner) == {1: 1, 2: 1, 3: 1, REGISTRY: 3}


def test_one_of_many_takes_over_an_abandoned_claim(server):
    """Who comes second finds another claim than the one that was abandoned, and keeps off."""
    old, key = write_claim(server, 1, started=1.0), LEASE_KEY.format(1)
    registry = at(server, REGISTRY)

    assert _replace(registry, key, old, "the first")
    assert not _replace(registry, key, old, "the second")
    assert registry.get(key) == "the first"


def test_an_abandoned_claim_that_changes_meanwhile_is_not_taken_over(server, monkeypatch):
    """Between the look at a claim and the write another may come first: nothing is written then."""
    old, key = write_claim(server, 1, started=1.0), LEASE_KEY.format(1)
    registry, look = at(server, REGISTRY), redis.client.Pipeline.get

    def look_too_early(pipe, name):
        found = look(pipe, name)
        at(server, REGISTRY).set(name, "the first")
        return found

    monkeypatch.setattr(redis.client.Pipeline, "get", look_too_early)

    assert not _replace(registry, key, old, "the second")
    assert registry.get(key) == "the first"


def test_sweeping_together_hurts_nobody(server, owner):
    """Of many runs that meet the same dead leases at once, none loses what it has just written."""
    for database in DATABASES:
        write_claim(server, database, pid=os.getpid(), started=1.0)
    runs = 10
    together = threading.Barrier(runs)

    def run(name: int) -> tuple[Lease, int]:
        together.wait(30)
        lease = Lease.take(server.url)
        connect(lease.url).set("mine", name)
        return lease, name

    with ThreadPoolExecutor(runs) as pool:
        taken = list(pool.map(run, range(runs)))

    assert len({lease.url for lease, _ in taken}) == runs
    assert [int(connect(lease.url).get("mine")) for lease, _ in taken] == list(range(runs))
    assert all(connect(lease.url).dbsize() == 1 for lease, _ in taken)
    for lease, _ in taken:
        lease.close()
    assert used(owner) == {}
