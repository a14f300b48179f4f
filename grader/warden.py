"""The process between one lab's sandbox and the machine: a network, a disk of memory, a relay.

usage: python -I -S warden.py PLACE BYTES FILES FOLDER...

It makes a user, a mount and a network namespace of its own, without root. In the mount namespace
PLACE is a file system in memory, bounded in bytes and files, that holds a copy of each FOLDER (0, 1
and so on); in the network namespace there is loopback and nothing else. bubblewrap starts each
process of the submission in both. What crosses between the two
networks crosses here, and only to ports that the grader named: one thread stays in the sandbox's
network and makes its sockets, the main thread makes those in the machine's network and moves the
bytes. (A socket belongs to the network that it was made in, whoever uses it later.)

One JSON object a line comes in on standard input, one goes out; when the input ends, so does this.

    {"lead": [host, port]}    port of the sandbox's loopback leads to host:port outside
    {"name": "10.1.2.3"}      this address is the sandbox's own loopback too
    {"door": port}            port of the machine's loopback (0: a free one) leads into the sandbox
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import queue
import resource
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable

TYPE_CHECKING = False  # as the module typing has it, which takes longer to load than all the rest
if TYPE_CHECKING:
    from typing import Any

NEW_MOUNT, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
PRIVATE, NO_SUID, NO_DEVICES = 0x44000, 2, 4
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, UP = 0x8916, 0x891C, 0x8914, 1
CHUNK = 65536
MOST_LINES = 400  # connections at once; more wait in the kernel's queue
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Make the namespaces, say so, and serve until standard input ends."""
    libc.prctl(1, signal.SIGKILL)  # die with the grader
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    enter_own_namespace()
    mount_memory(*sys.argv[1:])
    inside = Inside()
    relay = Relay(inside)
    sys.stdout.write(json.dumps({"pid": os.getpid(), "thread": inside.thread}) + "\n")
    sys.stdout.flush()
    relay.serve(0)


def must(result: int) -> None:
    """Raise what the C library says of a call that failed."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter_own_namespace() -> None:
    """Become root of a user namespace in which only this user exists."""
    user, group = os.getuid(), os.getgid()
    must(libc.unshare(NEW_USER | NEW_MOUNT))
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def mount_memory(place: str, size: str, files: str, *folders: str) -> None:
    """Lay a file system in memory over `place`, with copies of the folders in it."""
    must(libc.mount(b"none", b"/", None, PRIVATE, None))
    options = f"mode=0700,size={size},nr_inodes={files}".encode()
    must(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", NO_SUID | NO_DEVICES, options))
    for number, folder in enumerate(folders):
        os.mkdir(os.path.join(place, str(number)))
        copy(folder, os.path.join(place, str(number)))


def copy(source: str, target: str) -> None:
    """Copy folders and regular files; the copy of a submission holds nothing else."""
    for entry in os.scandir(source):
        to = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(to)
            copy(entry.path, to)
        else:
            with open(entry.path, "rb") as reading, open(to, "wb") as writing:
                while chunk := reading.read(CHUNK):
                    writing.write(chunk)


class Inside:
    """A thread that lives in the sandbox's network: `make` runs a function there."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = 0
        threading.Thread(target=self._run, daemon=True).start()
        self.make(self._enter)

    def _run(self) -> None:
        while True:
            function, arguments = self._wanted.get()
            try:
                self._made.put((function(*arguments), None))
            except OSError as error:
                self._made.put((None, error))

    def make(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the function returns, or raise its OSError."""
        self._wanted.put((function, arguments))
        value, error = self._made.get()
        if error:
            raise error
        return value

    def _enter(self) -> None:
        self.thread = threading.get_native_id()
        must(libc.unshare(NEW_NETWORK))
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", UP))


def own_address(number: int, address: str) -> None:
    """Give loopback one more address, so that a literal address in a URL stays right."""
    with socket.socket() as any_socket:
        for order, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.255")):
            place = struct.pack("16sHH4s8x", f"lo:{number}".encode(), 2, 0, socket.inet_aton(value))
            fcntl.ioctl(any_socket, order, place)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, and never blocks."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError:
        door.close()
        raise
    door.listen(512)
    door.setblocking(False)
    return door


# Makes a socket and says what to connect it to.
Side = Callable[[], "tuple[socket.socket, Any]"]


class Relay:
    """Accepts connections on one side and moves their bytes to the other."""

    def __init__(self, inside: Inside) -> None:
        self.inside, self.lines, self.names, self.admits = inside, 0, 0, True
        self.doors: dict[socket.socket, Side] = {}
        self.selector = selectors.DefaultSelector()

    def serve(self, orders: int) -> None:
        """Answer orders and move bytes until the descriptor `orders` ends."""
        os.set_blocking(orders, False)
        self.selector.register(orders, READ, None)
        pending = b""
        while True:
            for key, events in self.selector.select():
                if key.data is not None:
                    key.data(key.fileobj, events)
                elif chunk := os.read(orders, CHUNK):
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        self.answer(json.loads(line))
                else:
                    return

    def answer(self, order: dict[str, Any]) -> None:
        """Carry out one order and say how it went."""
        said: dict[str, Any]
        try:
            said = {"port": self.carry_out(order)}
        except OSError as error:
            said = {"error": error.strerror or str(error), "taken": error.errno == errno.EADDRINUSE}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    def carry_out(self, order: dict[str, Any]) -> int:
        """Return the port that an order opened, 0 for one that opens none."""
        if "name" in order:
            self.names += 1
            self.inside.make(own_address, self.names, order["name"])
            return 0
        if "lead" in order:
            host, port = order["lead"]
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, *_, place = found[0]
            door = self.inside.make(listen, "0.0.0.0", port)
            self.open(door, lambda: (socket.socket(family), place))
        else:
            door = listen("127.0.0.1", order["door"])
            back = door.getsockname()
            self.open(door, lambda: (self.inside.make(socket.socket), back))
        return int(door.getsockname()[1])

    def open(self, door: socket.socket, other_side: Side) -> None:
        """Serve a door from now on."""
        self.doors[door] = other_side
        if self.admits:
            self.selector.register(door, READ, self.accept)

    def accept(self, door: socket.socket, _: int) -> None:
        """Take a connection and connect it to the other side."""
        if not self.admits:
            return
        try:
            near, _ = door.accept()
        except OSError:  # it has been given up already
            return
        far, place = self.doors[door]()
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.connect_ex(place)  # how it went is seen when it can first be written to
        Line(self, near, far)

    def count(self, change: int) -> None:
        """Note that a line began or ended; with too many of them nobody else is let in."""
        self.lines += change
        if self.admits is (self.lines < MOST_LINES):
            return
        self.admits = not self.admits
        for door in self.doors:
            if self.admits:
                self.selector.register(door, READ, self.accept)
            else:
                self.selector.unregister(door)


class Line:
    """Two connected sockets: what comes from one goes to the other, at the slower one's pace."""

    def __init__(self, relay: Relay, near: socket.socket, far: socket.socket) -> None:
        self.relay, self.ends = relay, (near, far)
        self.other = {near: far, far: near}
        self.waiting = {near: b"", far: b""}  # by who it is for
        self.reading = {near, far}  # those that have not said their last word
        self.calling = True  # the far end is not connected yet
        self.watched: dict[socket.socket, int] = {}
        relay.count(+1)
        self.watch()

    def watch(self) -> None:
        """Ask to be called for what can go on."""
        for end in self.ends:
            self.look_for(end, self.wish(end))

    def wish(self, end: socket.socket) -> int:
        """Return the events that matter for this end now."""
        if self.calling:
            return WRITE if end is self.ends[1] else 0
        reads = end in self.reading and not self.waiting[self.other[end]]
        return (READ if reads else 0) | (WRITE if self.waiting[end] else 0)

    def look_for(self, end: socket.socket, events: int) -> None:
        """Change what the selector watches, if it has to be changed."""
        before, selector = self.watched.get(end, 0), self.relay.selector
        if events and before and events != before:
            selector.modify(end, events, self.act)
        elif events and not before:
            selector.register(end, events, self.act)
        elif before and not events:
            selector.unregister(end)
        self.watched[end] = events

    def act(self, end: socket.socket, events: int) -> None:
        """Move bytes; an error at one end resets the other."""
        if not self.watched.get(end):
            return  # ended by an earlier event of the same look
        try:
            self.move(end, events)
        except BlockingIOError:
            pass
        except OSError:
            self.close(abruptly=True)
            return
        if self.reading or any(self.waiting.values()):
            self.watch()
        else:
            self.close()

    def move(self, end: socket.socket, events: int) -> None:
        """Do what the events allow."""
        if self.calling:
            if problem := end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(problem, os.strerror(problem))
            self.calling = False
            return
        if events & WRITE:
            self.send(end)
        if events & READ:
            chunk, to = end.recv(CHUNK), self.other[end]
            self.waiting[to] = chunk
            if not chunk:
                self.reading.discard(end)
            self.send(to)

    def send(self, to: socket.socket) -> None:
        """Send what waits for an end, and its last word where the other has said its own."""
        if self.waiting[to]:
            self.waiting[to] = self.waiting[to][to.send(self.waiting[to]) :]
        if not self.waiting[to] and self.other[to] not in self.reading:
            to.shutdown(socket.SHUT_WR)

    def close(self, abruptly: bool = False) -> None:
        """End both connections."""
        for end in self.ends:
            self.look_for(end, 0)
            if abruptly:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
        self.relay.count(-1)


if __name__ == "__main__":
    main()
