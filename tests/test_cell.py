"""grader/cell.py and grader/warden.py: the network and the disk that one lab's processes share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from grader import cell as cells
from grader.cell import Cell, places
from grader.errors import LabFault, SubmissionFault
from grader.process import Child, spawn, wait_until
from grader.relay import reachable
from grader.sandbox import Sandbox, best, environment
from grader.stack.redis import free_port

pytestmark = pytest.mark.skipif(
    best().kind != "bubblewrap", reason="bubblewrap does not work on this machine"
)
TALK = """
import json, os, socket
def talk(host, port, kind=socket.SOCK_STREAM):
    with socket.socket(type=kind) as link:
        link.settimeout(30)
        try:
            link.connect((host, port))
            link.sendall(b"hello")
            return link.recv(100).decode()
        except OSError as error:
            return type(error).__name__
"""


class Echo:
    """A server on loopback that sends back what it gets, with the port it is on before it."""

    def __init__(self, kind: int = socket.SOCK_STREAM) -> None:
        self.met = 0
        self.socket = socket.socket(type=kind)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        if kind == socket.SOCK_STREAM:
            self.socket.listen(500)
            threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self.socket.accept()
                self.met += 1
                threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError), link:
            while chunk := link.recv(65536):
                link.sendall(chunk)

    def close(self) -> None:
        # A thread in accept() keeps a socket listening that is only closed.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server of the machine."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def home(tmp_path) -> Path:
    """A run's folder with a submission's copy."""
    (tmp_path / "work").mkdir()
    return tmp_path


class Start:
    """Makes cells around the copy and runs scripts in them."""

    def __init__(self, home: Path) -> None:
        self.home, self.work = home, home / "work"
        self.stack = contextlib.ExitStack()

    def cell(self, *shared: Path) -> Cell:
        box = Sandbox("bubblewrap")
        return self.stack.enter_context(Cell(box, self.work, self.home / "ledger", shared))

    def start(self, cell: Cell, script: str) -> Child:
        (cell.seen(self.work) / "script.py").write_text(script)
        child = spawn(
            cell.command("program", ["script.py"]),
            env=environment(self.work, {}),
            cwd=self.work,
            ledger=self.home / "ledger",
        )
        self.stack.callback(child.end)
        return child

    def run(self, cell: Cell, script: str):
        """Run a script to its end and return what it printed, read as JSON."""
        child = self.start(cell, script)
        child.process.wait(120)
        text = child.output.finish()
        assert child.exit_code == 0, text
        return json.loads(text)


@pytest.fixture
def box(home) -> Iterator[Start]:
    """What starts scripts in cells; everything is ended afterwards."""
    start = Start(home)
    with start.stack:
        yield start


def say(*asked: str) -> str:
    """Return a script that prints the values of expressions."""
    return TALK + f"print(json.dumps([{', '.join(asked)}]))"


# From the submission to the lab


def test_only_the_labs_ports_are_reached(box, echo):
    """A port that was led in answers; every other one of the machine, and the world, do not."""
    other, cell = Echo(), box.cell()
    cell.lead([echo.url])

    seen = box.run(
        cell,
        say(
            f"talk('127.0.0.1', {echo.port})",
            f"talk('127.0.0.1', {other.port})",
            "talk('192.0.2.1', 80)",
            "talk('192.0.2.1', 53, socket.SOCK_DGRAM)",
            "[name for _, name in socket.if_nameindex()]",
        ),
    )
    other.close()

    assert seen == ["hello", "ConnectionRefusedError", "OSError", "OSError", ["lo"]]
    assert other.met == 0


def test_no_packet_and_no_nameless_socket_leaves(box):
    """What listens outside for packets, or on an abstract socket, hears nothing from inside."""
    packets, name = Echo(socket.SOCK_DGRAM), f"\0lab-test-{os.getpid()}"
    packets.socket.setblocking(False)
    with socket.socket(socket.AF_UNIX) as nameless:
        nameless.bind(name)
        nameless.listen()
        script = f"""
def nameless():
    with socket.socket(socket.AF_UNIX) as link:
        try:
            return link.connect({name!r})
        except OSError as error:
            return type(error).__name__
print(json.dumps([nameless(), talk("127.0.0.1", {packets.port}, socket.SOCK_DGRAM)]))
"""
        seen = box.run(box.cell(), TALK + script)

    assert seen == ["ConnectionRefusedError", "ConnectionRefusedError"]
    with pytest.raises(BlockingIOError):
        packets.socket.recv(10)
    packets.close()


def test_two_cells_are_apart(box, echo):
    """What is led into one cell is not there in another, and neither is what listens in it."""
    one, other = box.cell(), box.cell()
    one.lead([echo.url])

    assert box.run(other, say(f"talk('127.0.0.1', {echo.port})")) == ["ConnectionRefusedError"]


def test_hosts_keep_their_names(box, echo, monkeypatch):
    """A URL with a host's name, or with an address that is not loopback, works as it is inside."""
    cell = box.cell()
    cell.lead([f"redis://user:word@localhost:{echo.port}/0", "no URL", "redis://", ""])
    order = []
    monkeypatch.setattr(cell, "_ask", lambda **said: order.append(said))
    cell.lead([f"amqp://broker.example:{echo.port};http://192.0.2.7/x"])

    assert order == [
        {"lead": ["broker.example", echo.port]},
        {"name": "192.0.2.7"},
        {"lead": ["192.0.2.7", 80]},
    ]
    assert "127.0.0.1 broker.example\n" in cell.hosts.read_text()
    look = f"talk('broker.example', {echo.port})", f"talk('localhost', {echo.port})"
    assert box.run(cell, say(*look)) == ["hello", "hello"]


def test_of_several_addresses_one_that_answers_is_taken(echo, monkeypatch):
    """A name may mean two addresses, of which the server listens on the second only."""
    place = ("127.0.0.1", echo.port)
    rows = [(socket.AF_INET, 0, 0, "", ("127.0.0.9", echo.port)), (socket.AF_INET, 0, 0, "", place)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)

    assert reachable("localhost", echo.port) == (socket.AF_INET, place)
    echo.close()
    assert reachable("localhost", echo.port)[1] == rows[0][4]


def test_an_address_outside_becomes_the_cells_own(box, echo):
    """A literal address can be given to the cell's loopback, where what is led in listens."""
    cell = box.cell()
    cell.lead([echo.url])
    cell._ask(name="192.0.2.7")
    cell._ask(name="192.0.2.8")

    where = [f"talk('192.0.2.{n}', {echo.port})" for n in (7, 8, 9)]
    assert box.run(cell, say(*where)) == ["hello", "hello", "OSError"]


def test_places_are_read_from_urls():
    """Of each URL host and port are read, the scheme's own port where none is named."""
    urls = [
        "redis://:x@a:1/0",
        "amqps://b//;amqp://c",
        "https://d/x?y=z",
        "/path",
        "x://e",
        "a://:",
    ]

    assert places(urls) == [("a", 1), ("b", 5671), ("c", 5672), ("d", 443)]
    assert places(["http://[::1]:99999/", "http://[bad"]) == []


def test_everything_arrives_in_both_directions(box, echo):
    """Thirty megabytes over forty connections at once come back whole, and each one is ended."""
    cell = box.cell()
    cell.lead([echo.url])
    script = f"""
import hashlib, json, os, socket, threading
block = os.urandom(65536)
sums = []
def one():
    with socket.create_connection(("127.0.0.1", {echo.port})) as link:
        def send():
            for _ in range(12):
                link.sendall(block)
            link.shutdown(socket.SHUT_WR)
        threading.Thread(target=send).start()
        found = hashlib.sha256()
        while chunk := link.recv(65536):
            found.update(chunk)
        sums.append(found.hexdigest())
threads = [threading.Thread(target=one) for _ in range(40)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([hashlib.sha256(block * 12).hexdigest(), sorted(set(sums)), len(sums)]))
"""
    wanted, found, number = box.run(cell, script)

    assert len(wanted) == len(hashlib.sha256().hexdigest())
    assert (found, number) == ([wanted], 40)


def test_too_many_connections_wait(box, echo):
    """A submission that opens connections without end keeps nobody else waiting for ever."""
    cell = box.cell()
    cell.lead([echo.url])
    hoard = (
        TALK
        + f"""
links = []
for _ in range(700):
    link = socket.socket()
    link.setblocking(False)
    link.connect_ex(("127.0.0.1", {echo.port}))
    links.append(link)
print("hoarding", flush=True)
import signal; signal.pause()
"""
    )
    child = box.start(cell, hoard)
    wait_until(lambda: "hoarding" in child.output.text, 30, AssertionError)
    wait_until(lambda: echo.met >= 400, 30, lambda: AssertionError(echo.met))
    assert cell.door() and echo.met <= 401

    child.end()
    assert box.run(cell, say(f"talk('127.0.0.1', {echo.port})")) == ["hello"]


def test_a_service_that_is_gone_ends_the_connection(box, echo):
    """Where the lab's own service does not listen, the connection is reset, not left hanging."""
    cell, port = box.cell(), free_port()
    cell.lead([f"http://127.0.0.1:{port}"])

    assert box.run(cell, say(f"talk('127.0.0.1', {port})")) == ["ConnectionResetError"]


def test_a_port_that_the_submission_took_is_its_failure(box, echo):
    """Who listens where a service of the lab belongs has failed, not the lab."""
    cell = box.cell()
    squat = f"""
import signal, socket
door = socket.create_server(("127.0.0.1", {echo.port}))
print("squatting", flush=True)
signal.pause()
"""
    child = box.start(cell, squat)
    wait_until(lambda: "squatting" in child.output.text, 20, AssertionError)

    with pytest.raises(SubmissionFault, match=str(echo.port)):
        cell.lead([echo.url])


# From the lab to the submission


def test_a_program_is_reached_through_a_door(box):
    """What listens on a door's port inside answers the grader; before, a connection is reset."""
    cell = box.cell()
    port = cell.door()

    def ask() -> bytes:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as link:
            return link.recv(100)
        return b""

    assert ask() == b""
    serve = f"""
import socket
with socket.create_server(("127.0.0.1", {port})) as door:
    while True:
        with door.accept()[0] as link:
            link.sendall(b"page")
"""
    box.start(cell, serve)
    wait_until(lambda: ask() == b"page", 20, AssertionError)


# Disk and end


def test_shared_folders_hold_what_was_in_them(box, home):
    """A shared folder is copied in, written inside, and read by the grader where `seen` says."""
    shared = home / "data"
    (shared / "deep").mkdir(parents=True)
    (shared / "deep" / "note").write_text("before")
    cell = box.cell(shared)
    script = f"""
import json
from pathlib import Path
note = Path({str(shared)!r}, "deep", "note")
print(json.dumps(note.read_text()))
note.write_text("after")
"""
    assert box.run(cell, script) == "before"
    assert (cell.seen(shared) / "deep" / "note").read_text() == "after"


def test_no_link_leads_the_grader_out(box, home):
    """A link that a submission leaves for the grader is not followed; for itself it works."""
    (home / "secret").write_text("secret")
    cell = box.cell()
    script = f"""
import json, os
open("file", "w").write("mine")
os.symlink("file", "near")
os.symlink({str(home / "secret")!r}, "far")
os.symlink("/", "root")
print(json.dumps(open("near").read()))
"""
    assert box.run(cell, script) == "mine"
    for name in ("near", "far", f"root{home}/secret"):
        with pytest.raises(OSError, match="symbolic links"):
            (cell.seen(box.work) / name).read_text()


def test_a_full_disk_is_the_submissions_failure(box):
    """Where a submission has left no room for a further process, it has failed, not the lab."""
    cell = box.cell()
    fill = """
import contextlib
with contextlib.suppress(OSError):
    for number in range(40_000):
        open(f"file{number}", "w").close()
print("[]")
"""
    assert box.run(cell, fill) == []
    with pytest.raises(SubmissionFault, match="filled its disk"):
        cell.command("program", ["script.py"])


def test_nothing_is_left(home):
    """A closed cell leaves no process, no mount, no file; closing it again does nothing."""
    before = set(Path("/proc/self/mountinfo").read_text().splitlines())
    cell = Cell(Sandbox("bubblewrap"), home / "work", home / "ledger")
    cell.command("program", ["x.py"])
    warden = psutil.Process(cell._pid)
    cell.close()
    cell.close()

    assert not warden.is_running()
    assert {path.name for path in home.iterdir()} == {"work", "ledger"}
    assert set(Path("/proc/self/mountinfo").read_text().splitlines()) == before


@pytest.mark.parametrize("warden", ["/bin/false", "/bin/cat"])
def test_a_cell_that_does_not_stand_is_the_labs_fault(home, monkeypatch, warden):
    """Where the namespaces can't be made, or nothing answers, the lab says so in a sentence."""
    monkeypatch.setattr(cells, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("sys.executable", warden)
    monkeypatch.setattr(cells, "WARDEN", Path("/dev/zero") if warden == "/bin/cat" else warden)

    cell = Cell(Sandbox("bubblewrap"), home / "work", home / "ledger")
    with cell, pytest.raises(LabFault, match="sandbox could not be set up"):
        cell.command("program", ["x.py"])


def test_a_lost_cell_is_the_labs_fault(box, echo):
    """A warden that is gone in the middle of a run is told from what a submission did."""
    cell = box.cell()
    cell.command("program", ["x.py"])
    psutil.Process(cell._pid).kill()

    with pytest.raises(LabFault, match="lost"):
        cell.lead([echo.url])


def test_a_killed_grader_takes_the_cell_along(home):
    """The warden ends with the grader, and the network and disk with it."""
    grader = f"""
import signal
from pathlib import Path
from grader.cell import Cell
from grader.sandbox import Sandbox
home = Path({str(home)!r})
cell = Cell(Sandbox("bubblewrap"), home / "work", home / "ledger")
cell.command("program", ["x.py"])
print(cell._pid, flush=True)
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-c", grader], stdout=subprocess.PIPE)
    assert process.stdout
    warden = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    process.stdout.close()

    wait_until(lambda: not warden.is_running(), 20, AssertionError)
