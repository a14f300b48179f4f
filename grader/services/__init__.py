"""Services that the grader owns: real servers on loopback that behave as a check tells them.

Each `Server` runs its own event loop in a thread of its own, so that a check may talk to it from
any thread, and so that `stop()` ends every connection at once, also one that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from grader.errors import LabFault

HOST = "127.0.0.1"
BACKLOG = 512
T = TypeVar("T")


class Server:
    """A TCP server on loopback; a subclass answers one connection in `serve`.

    It listens as soon as it is made: a subclass sets its own state before it calls this. Use it as
    a context manager, or call `stop()`.

    Args:
        port: the port to listen on, 0 for a free one.

    Raises:
        LabFault: the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._door = bind(port)
        self.port: int = self._door.getsockname()[1]
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        name = f"{type(self).__name__}:{self.port}"
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()
        try:
            self._call(self._open_door())
        except LabFault:
            self.stop()
            raise

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection; it is closed when this returns or meets an OSError or EOFError."""
        raise NotImplementedError

    def stop(self) -> None:
        """Free the port, close every connection and end the thread; again does nothing."""
        with self._lock:
            if self._loop.is_closed():
                return
            self._call(self._finish())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop and wait for its result."""
        if self._loop.is_closed():
            coroutine.close()
            raise LabFault("service_stopped", port=self.port)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open_door(self) -> None:
        try:
            self._door.listen(BACKLOG)
        except OSError as error:
            raise LabFault("cannot_listen", port=self.port, error=error) from error
        self._loop.add_reader(self._door, self._accept)

    def _close_door(self) -> None:
        """Refuse new connections, yet keep the port: a bound one is given to nobody else."""
        self._loop.remove_reader(self._door)
        self._door.close()
        self._door = bind(self.port)

    def _accept(self) -> None:
        # Not asyncio.start_server: it loses a connection that comes while it is being closed.
        with contextlib.suppress(OSError):
            connection, _ = self._door.accept()
            task = self._loop.create_task(self._converse(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            # An error here means that the other side left: there is nobody to tell.
            with contextlib.suppress(OSError, EOFError):
                await self.serve(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _finish(self) -> None:
        self._loop.remove_reader(self._door)
        self._door.close()
        # A task that has not begun would leave its socket open when it is cancelled.
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        # Whatever another thread asked for meanwhile ends as well.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)


def bind(port: int, host: str = HOST) -> socket.socket:
    """Return a socket bound to a port, 0 for a free one; LabFault where it is taken."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.setblocking(False)
        door.bind((host, port))
    except (OSError, OverflowError) as error:
        door.close()
        raise LabFault("cannot_listen", port=port, error=error) from error
    return door


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once with a TCP reset; what has not been sent yet is lost."""
    with contextlib.suppress(OSError):
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()
