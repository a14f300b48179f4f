"""grader/stack/rabbitmq.py and its neighbours: a private RabbitMQ, and namespaces on any."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from grader import home as homes
from grader.errors import LabFault, NoBroker, UsageError
from grader.home import Home
from grader.process import wait_until
from grader.stack import rabbit_install
from grader.stack.rabbit_api import External, Management
from grader.stack.rabbit_install import ADMIN, SCRIPTS, find_installation, free_ports, is_free
from grader.stack.rabbit_namespace import TRACE_EXCHANGE, Namespace, machine, sweep_vhosts
from grader.stack.rabbitmq import Node

# Seconds; the longest that a test waits for what should come at once, on a busy machine too.
WAIT = 20

# A grader that starts a node, says what it started, and waits (or ends without stopping it).
OWNER = """
import json, sys
from pathlib import Path
from grader.home import Home
from grader.stack.rabbitmq import Node, find_installation
home = Home("test")
log = home.folder / "log" if "log" in sys.argv else None
node = Node.start(home, find_installation(), log)
pids = [process.pid for child in (node.child, node.epmd) for process in child.family]
print(json.dumps({"pids": pids, "ports": node.ports, "folder": str(home.folder)}), flush=True)
if not log:
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def installation() -> Path:
    """The machine's RabbitMQ; without one the test is skipped, or fails if one is required."""
    place = find_installation()
    if place is None:
        stop = pytest.fail if os.environ.get("LAB_REQUIRE_RABBITMQ") == "1" else pytest.skip
        stop("no RabbitMQ on this machine: `sudo apt install rabbitmq-server`")
    return place


@pytest.fixture(scope="module")
def home():
    """A run's folder."""
    with Home("test") as home:
        yield home


@pytest.fixture(scope="module")
def node(home, installation):
    """One private node for most tests."""
    node = Node.start(home, installation)
    yield node
    node.stop()


@pytest.fixture
def space(node):
    """A namespace with the firehose on."""
    with Namespace.open(node, tracing=True) as space:
        yield space


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """A temporary folder of its own, with a name that not every program can stand."""
    folder = tmp_path / "mit Abstand, grüß 实验"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


def late(what: str):
    """Return what wait_until raises when it has waited long enough."""
    return lambda: AssertionError(f"too late: {what}")


def connect(url: str):
    """Return an open connection of kombu's."""
    from kombu import Connection

    connection = Connection(url, connect_timeout=WAIT)
    connection.connect()
    return connection


def publish(url: str, queue: str, body: object, **properties: object) -> None:
    """Put one persistent message on a durable queue and wait for the broker's confirmation."""
    from kombu import Connection, Queue

    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        declare = [Queue(queue, durable=True)]
        with connection.Producer() as producer:
            producer.publish(body, routing_key=queue, declare=declare, **properties)


def is_cut(connection) -> bool:
    """Whether the broker has closed a connection."""
    try:
        connection.drain_events(timeout=0.1)
    except TimeoutError:
        return False
    except connection.connection_errors:
        return True
    return False


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def pids_of(node: Node) -> list[int]:
    """Return the node's processes: the virtual machine, its helpers and epmd."""
    return [process.pid for child in (node.child, node.epmd) for process in child.family]


def assert_nothing_left(pids: list[int], ports: list[int]) -> None:
    """Check that the processes have ended and nothing listens on the ports."""
    wait_until(lambda: all(map(gone, pids)), WAIT, late("the node's processes are gone"))
    # A process of many threads can be a zombie already while a last thread holds its sockets.
    wait_until(lambda: all(map(is_free, ports)), WAIT, late("the node's ports are free"))


def taken(port: int) -> socket.socket:
    """Return a socket that keeps a port busy."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", port))
    holder.listen()
    return holder


# Finding an installation


def make_scripts(folder: Path) -> Path:
    """Lay out an installation's scripts in the folder."""
    folder.mkdir(parents=True)
    for script in SCRIPTS:
        (folder / script).write_text("#!/bin/sh\n")
        (folder / script).chmod(0o755)
    return folder


def test_the_scripts_behind_a_debian_wrapper_are_found(tmp_path, monkeypatch):
    """A wrapper on PATH that switches user leads to the installation's own scripts."""
    own = make_scripts(tmp_path / "lib/rabbitmq_server-9.9.9/sbin")
    (wrappers := tmp_path / "bin").mkdir()
    for script in SCRIPTS:
        (wrappers / script).symlink_to(own / script)
    (wrappers / "wrapper").touch(0o755)
    (on_path := tmp_path / "path").mkdir()
    (on_path / "rabbitmq-server").symlink_to(wrappers / "wrapper")
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)

    assert find_installation() == own


def test_an_unpacked_archive_is_found_by_its_variable(tmp_path, monkeypatch):
    """RABBITMQ_HOME wins over everything else."""
    own = make_scripts(tmp_path / "rabbitmq_server-9.9.9/sbin")
    monkeypatch.setenv("RABBITMQ_HOME", str(own.parent))

    assert find_installation() == own


def test_no_installation_is_no_error(tmp_path, monkeypatch):
    """Without RabbitMQ, or with half of one, nothing is found."""
    (tmp_path / "rabbitmq-server").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)
    monkeypatch.setattr(rabbit_install, "FOLDERS", (str(tmp_path / "*"),))

    assert find_installation() is None


def test_free_ports_differ_and_are_free():
    """Free ports are different ones, and can be bound."""
    ports = free_ports()

    assert len(set(ports)) == 4 and all(map(is_free, ports))


# The private node


def test_only_loopback_is_listened_on(node):
    """The node, its distribution and epmd listen on loopback and on the ports that it names."""
    listening = {
        entry.laddr
        for pid in pids_of(node)
        for entry in psutil.Process(pid).net_connections("inet")
        if entry.status == psutil.CONN_LISTEN
    }

    assert {address.port for address in listening} == set(node.ports)
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_no_secret_is_in_a_command_line_or_environment(node):
    """Neither the administrator's password nor the cookie shows in the process list."""
    password = node.management.session.auth[1]
    cookie = (node.folder / ".erlang.cookie").read_text()

    for pid in pids_of(node):
        process = psutil.Process(pid)
        shown = " ".join(process.cmdline()) + str(process.environ())
        assert password not in shown and cookie not in shown


def test_there_is_no_guest(node):
    """The only user is the administrator with a random password."""
    assert node.management.users() == [ADMIN]
    assert not Management(node.management.url, "guest", "guest").alive()


@pytest.mark.parametrize("place", [0, 3], ids=["amqp", "epmd"])
def test_a_port_that_was_taken_is_tried_again(home, installation, monkeypatch, place):
    """When another process takes a port first, the node starts on other ports."""
    first, second = free_ports(), free_ports()
    tries = [first, second]
    monkeypatch.setattr(rabbit_install, "free_ports", lambda: tries.pop(0))

    with taken(first[place]):
        node = Node.start(home, installation)
    alive, pids = node.management.alive(), pids_of(node)
    node.stop()

    assert alive and node.ports == second
    assert_nothing_left(pids, second)


def test_a_node_that_can_not_start_says_why(home, installation, monkeypatch):
    """A failed start shows the end of the log, names the cause and leaves no process."""
    before = set(home.folder.iterdir())
    monkeypatch.setattr(rabbit_install, "CONFIG", rabbit_install.CONFIG + "no_such_key = 1\n")

    with pytest.raises(LabFault, match="no_such_key"):
        Node.start(home, installation)

    assert set(home.folder.iterdir()) == before
    mine = psutil.Process().children(recursive=True)
    assert not [p for p in mine if "no_such" in str(p.cwd())]


def test_stop_leaves_nothing_even_in_an_odd_folder(temp, installation):
    """In a folder with spaces and Chinese a node works, and stop leaves no process or port."""
    with Home("test") as home:
        node = Node.start(home, installation)
        pids, names = pids_of(node), [process.name() for process in node.child.family]
        with Namespace.open(node) as space:
            publish(space.student_url, "列队", {"x": "é"})
            assert space.queue_state()["列队"]["messages"] == 1
        node.stop()

    assert names[:2] == ["beam.smp", "erl_child_setup"]
    assert_nothing_left(pids, list(node.ports))
    assert list(temp.iterdir()) == []


@pytest.mark.parametrize("how", ["killed", "log"])
def test_the_sweep_ends_the_node_of_a_grader_that_is_gone(temp, installation, how):
    """After SIGKILL, or an end without stop, the next run's sweep ends the node and its epmd."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        made = json.loads(owner.stdout.readline())
        if how == "killed":
            owner.send_signal(signal.SIGKILL)
        owner.wait(WAIT)
        assert not any(map(gone, made["pids"][:1])), "with nobody to end it, the node runs on"
    finally:
        owner.kill()
        owner.communicate()
        swept = homes.sweep()

    assert swept == [Path(made["folder"])]
    assert_nothing_left(made["pids"], made["ports"])
    assert not Path(made["folder"]).exists()


@pytest.mark.parametrize("hard", [False, True], ids=["polite", "crash"])
def test_a_restart_keeps_durable_messages(node, space, hard):
    """After a restart the same URLs work, the message is there and the firehose can be put on."""
    publish(space.student_url, "kept", {"n": 1})

    node.restart(hard)
    space.trace()

    with connect(space.grader_url) as connection, traced(connection) as copies:
        queue = connection.SimpleQueue("kept")
        assert queue.get(timeout=WAIT).payload == {"n": 1}
        queue.close()
        publish(space.student_url, "kept", {"n": 2})
        assert drain(connection, copies, 1)[0].headers["routing_keys"] == ["kept"]


# Namespaces


def test_a_student_sees_no_other_namespace(node, space):
    """A student's user can't enter another run's virtual host, nor the default one."""
    from amqp.exceptions import NotAllowed

    with Namespace.open(node) as other:
        login = space.student_url.rpartition("/")[0]
        for vhost in (other.vhost, "%2F"):
            with pytest.raises(NotAllowed):
                connect(f"{login}/{vhost}")


def test_neither_user_is_let_into_the_management_api(node, space):
    """The student's and the grader's logins are refused by the HTTP API."""
    for url in (space.student_url, space.grader_url):
        user, password = url.removeprefix("amqp://").partition("@")[0].split(":")
        assert not Management(node.management.url, user, password).alive()


def test_the_two_users_differ(space):
    """The student's credentials are not the grader's, and both can connect."""
    assert space.student_url != space.grader_url
    for url in (space.student_url, space.grader_url):
        connect(url).release()


def test_closing_leaves_no_virtual_host_and_no_user(node):
    """After close nothing is left, though a client was connected and messages were queued."""
    with Namespace.open(node, tracing=True) as space:
        client = connect(space.student_url)
        publish(space.student_url, "left", "x")

    assert node.management.vhosts() == ["/"]
    assert node.management.users() == [ADMIN]
    wait_until(lambda: is_cut(client), WAIT, late("the client is cut"))
    space.close()


def test_namespaces_may_be_opened_at_once(node):
    """Eight threads open and close namespaces on one node without meeting."""
    names: list[str] = []

    def work() -> None:
        for _ in range(3):
            with Namespace.open(node) as space:
                names.append(space.vhost)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)

    assert len(set(names)) == 24
    assert node.management.vhosts() == ["/"]


def test_queue_counts_are_fresh(space):
    """Counts of ready and unacknowledged messages are right after a moment, not after seconds."""

    def counted(ready: int, unacknowledged: int) -> None:
        counts = {"ready": ready, "unacknowledged": unacknowledged}
        counts["messages"] = ready + unacknowledged
        wait_until(
            lambda: space.queue_state()["counted"] == counts, 2, late(f"{space.queue_state()}")
        )

    for number in range(3):
        publish(space.student_url, "counted", number)
    counted(ready=3, unacknowledged=0)

    with connect(space.student_url) as connection:
        channel = connection.channel()
        taken = [channel.basic_get("counted") for _ in range(2)]
        counted(ready=1, unacknowledged=2)
        channel.basic_ack(taken[0].delivery_tag)
        counted(ready=1, unacknowledged=1)
    counted(ready=2, unacknowledged=0)


def test_a_students_connection_can_be_cut(space):
    """Cutting the student ends the student's connection and leaves the grader's alone."""
    student, grader = connect(space.student_url), connect(space.grader_url)

    space.cut_student()

    wait_until(lambda: is_cut(student), WAIT, late("the student is cut"))
    grader.SimpleQueue("still").put("x")
    grader.release()


# The firehose


@contextlib.contextmanager
def traced(connection):
    """Collect the firehose's copies of published messages."""
    from kombu import Consumer, Exchange, Queue

    copies: list = []
    exchange = Exchange(TRACE_EXCHANGE, type="topic", no_declare=True)
    queue = Queue("", exchange, routing_key="publish.#", exclusive=True, auto_delete=True)
    with Consumer(connection, [queue], on_message=copies.append, no_ack=True):
        yield copies


def drain(connection, copies: list, count: int) -> list:
    """Wait until so many copies have come in."""

    def look() -> bool:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
        return len(copies) >= count

    wait_until(look, WAIT, late(f"{count} copies; there are {len(copies)}"))
    return copies


def test_the_firehose_shows_each_published_message(space):
    """A message to the default exchange is copied with its user, properties, headers and body."""
    with connect(space.grader_url) as connection, traced(connection) as copies:
        publish(space.student_url, "celery", [[1], {}], headers={"task": "add"}, priority=3)
        publish(space.grader_url, "celery", "mine")
        seen, mine = drain(connection, copies, 2)

    properties = seen.headers["properties"]
    assert seen.delivery_info["routing_key"] == "publish."
    assert seen.headers["exchange_name"] == ""
    assert seen.headers["routing_keys"] == ["celery"] == seen.headers["routed_queues"]
    assert (seen.headers["user"], mine.headers["user"]) == (space.student, space.grader)
    assert properties["headers"] == {"task": "add"}
    assert (properties["content_type"], properties["priority"]) == ("application/json", 3)
    assert json.loads(bytes(seen.body)) == [[1], {}]


def test_a_student_can_not_read_the_firehose(space):
    """The student's user may not bind a queue to RabbitMQ's own exchanges."""
    from amqp.exceptions import AccessRefused

    student = connect(space.student_url)
    channel = student.channel()
    channel.queue_declare("spy")
    with pytest.raises(AccessRefused):
        channel.queue_bind("spy", TRACE_EXCHANGE, "#")
    student.release()


def test_every_virtual_host_of_many_at_once_is_traced(node):
    """RabbitMQ may forget one of two firehoses that are switched on at once; ours all stand."""
    names = [f"traced-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: node.management.create_vhost(name, tracing=True), names))
    traced = {row["name"] for row in node.management.get("vhosts") if row["tracing"]}
    for name in names:
        node.management.delete_vhost(name)

    assert set(names) <= traced


def test_a_firehose_that_can_not_be_switched_on(node, space, monkeypatch):
    """Where somebody else's calls undo ours each time, the lab says so instead of going deaf."""
    untraced = {"tracing": False}
    monkeypatch.setattr(node.management, "get", lambda *path, **params: untraced)

    with pytest.raises(LabFault, match="tracing"):
        space.trace()


# Sweeping and brokers of others


def test_the_sweep_takes_only_what_dead_processes_left(node, space):
    """Virtual hosts and users of a dead process of this machine go; all others stay."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = f"lab-{machine()}-{dead.pid}-1700000000-1"
    foreign = f"lab-elsewhere-000000-{dead.pid}-1700000000-1"
    for name in (left, foreign, "hands-on"):
        node.management.create_vhost(name)
    node.management.create_user(f"{left}-student", "x")

    removed = sweep_vhosts(node.management)
    kept = node.management.vhosts()
    for name in (foreign, "hands-on"):
        node.management.delete_vhost(name)

    assert removed == [left, f"{left}-student"]
    assert sorted(kept) == sorted(["/", foreign, "hands-on", space.vhost])


def admin_url(node: Node) -> str:
    """Return the URL that an administrator would put into LAB_RABBITMQ_URL."""
    user, password = node.management.session.auth
    return f"amqp://{user}:{password}@127.0.0.1:{node.port}/"


def test_a_broker_of_others_gives_namespaces(node, monkeypatch):
    """With an administrator's URL and the API's address, namespaces work as on our own node."""
    monkeypatch.setenv("LAB_RABBITMQ_API", f"{node.management.url}/api/")

    with Namespace.open(External(admin_url(node))) as space:
        publish(space.student_url, "q", "x")
        assert space.queue_state()["q"]["messages"] == 1


def test_without_the_management_plugin_the_fault_says_so(node, monkeypatch):
    """An API that does not answer is reported with the plugin and the command to type."""
    monkeypatch.delenv("LAB_RABBITMQ_API", raising=False)
    for api in (f"http://127.0.0.1:{free_ports().amqp}", f"http://127.0.0.1:{node.port}"):
        with pytest.raises(NoBroker, match="rabbitmq-plugins enable rabbitmq_management"):
            External(admin_url(node), api)


def test_a_user_that_is_no_administrator_is_told(node, space):
    """A user that may not use the API is told which tag is needed."""
    with pytest.raises(LabFault, match=r"set_user_tags .* administrator"):
        External(space.student_url, node.management.url)


def test_a_wrong_amqp_port_is_told(node):
    """A management API without AMQP at the URL's port is reported."""
    port = free_ports().amqp
    with pytest.raises(NoBroker, match=f"127.0.0.1:{port}"):
        External(admin_url(node).replace(str(node.port), str(port)), node.management.url)


@pytest.mark.parametrize("url", ["redis://h:1", "redis://h", "amqp://", "h:5672", "amqp://h:x"])
def test_a_url_that_is_none_is_a_usage_error(url):
    """What is not a broker's URL is refused, with an example."""
    with pytest.raises(UsageError, match="amqp://user:password@host"):
        External(url)


def test_a_url_is_shown_without_its_password():
    """A refused URL is quoted without its user and password."""
    with pytest.raises(UsageError) as caught:
        External("redis://me:secret@h")

    assert "redis://***@h" in str(caught.value) and "secret" not in str(caught.value)
