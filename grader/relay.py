"""Moves bytes between a sandbox's network and the machine's, in the warden's process.

The warden is started for each lab, so only what loads fast is imported here.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import struct
import sys
from collections.abc import Callable

TYPE_CHECKING = False  # as the module typing has it, which takes longer to load than all the rest
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Inside(Protocol):
        """What makes sockets in the sandbox's network."""

        def make(self, function: Callable[..., Any], *arguments: Any) -> Any:
            """Run a function there and return what it returns."""

        def name(self, address: str) -> None:
            """Give the sandbox's loopback one more address."""


CHUNK = 65536
MOST_LINES = 400  # connections at once; more wait in the kernel's queue
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


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


def reachable(host: str, port: int) -> tuple[int, Any]:
    """Return family and address of a host: of several (localhost has two) one that answers."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, *_, place in found if len(found) > 1 else ():
        with socket.socket(family) as probe:
            probe.settimeout(1)
            if not probe.connect_ex(place):
                return family, place
    return found[0][0], found[0][4]


# Makes a socket and says what to connect it to.
Side = Callable[[], "tuple[socket.socket, Any]"]


class Relay:
    """Accepts connections on one side and moves their bytes to the other."""

    def __init__(self, inside: Inside) -> None:
        self.inside, self.lines, self.admits = inside, 0, True
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
            self.inside.name(order["name"])
            return 0
        if "lead" in order:
            host, port = order["lead"]
            family, place = reachable(host, port)
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
