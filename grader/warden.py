"""The process between one lab's sandbox and the machine: a network, a disk of memory, a relay.

usage: python -I -S warden.py PLACE BYTES FILES FOLDER...

It makes a user, a mount and a network namespace of its own, without root. In the mount namespace
PLACE is a file system in memory, bounded in bytes and files, that holds a copy of each FOLDER (0, 1
and so on), and once more the whole (seen); in the network namespace there is loopback and nothing
else. bubblewrap starts each process of the submission in both. What crosses between the two
networks crosses here, and only to ports that the grader named: one thread stays in the sandbox's
network and makes its sockets, the main thread makes those in the machine's network and moves the
bytes (relay.py). A socket belongs to the network that it was made in, whoever uses it later.

One JSON object a line comes in on standard input, one goes out; when the input ends, so does this.

    {"lead": [host, port]}    port of the sandbox's loopback leads to host:port outside
    {"name": "10.1.2.3"}      this address is the sandbox's own loopback too
    {"door": port}            port of the machine's loopback (0: a free one) leads into the sandbox
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import queue
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from grader.relay import Relay

TYPE_CHECKING = False  # as the module typing has it, which takes longer to load than all the rest
if TYPE_CHECKING:
    from typing import Any

NEW_MOUNT, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
PRIVATE, NO_SUID, NO_DEVICES, NO_LINKS, AGAIN, BIND = 0x44000, 2, 4, 256, 32, 4096
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, UP = 0x8916, 0x891C, 0x8914, 1

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
    # The grader looks through a window of its own, in which no link leads out (Linux 5.10).
    window = os.path.join(place, "seen")
    os.mkdir(window)
    target, flags = os.fsencode(window), NO_SUID | NO_DEVICES | NO_LINKS
    must(libc.mount(os.fsencode(place), target, None, BIND, None))
    must(libc.mount(None, target, None, BIND | AGAIN | flags, None))


def copy(source: str, target: str) -> None:
    """Copy folders and regular files; the copy of a submission holds nothing else."""
    for entry in os.scandir(source):
        to = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(to)
            copy(entry.path, to)
        else:
            with open(entry.path, "rb") as reading, open(to, "wb") as writing:
                while chunk := reading.read(65536):
                    writing.write(chunk)


class Inside:
    """A thread that lives in the sandbox's network: `make` runs a function there."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = self._names = 0
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

    def name(self, address: str) -> None:
        """Give loopback one more address, so that a literal address in a URL stays right."""
        self._names += 1
        self.make(own_address, self._names, address)


def own_address(number: int, address: str) -> None:
    """Give loopback one more address, so that a literal address in a URL stays right."""
    with socket.socket() as any_socket:
        for order, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, "255.255.255.255")):
            place = struct.pack("16sHH4s8x", f"lo:{number}".encode(), 2, 0, socket.inet_aton(value))
            fcntl.ioctl(any_socket, order, place)


if __name__ == "__main__":
    main()
