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
        self._door = _bind(port)
        self.port: int = self._door.getsockname()[1]
        self._stopping = False
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        name = f"{type(self).__name__}:{self.port}"
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()
        self._call(self._listen())

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

    async def _listen(self) -> None:
        try:
            self._server = await asyncio.start_server(
                self._arrive, sock=self._door, backlog=BACKLOG
            )
        except OSError as error:
            raise LabFault("cannot_listen", port=self.port, error=error) from error

    def _close_door(self) -> None:
        """Refuse new connections, yet keep the port: bound without listening, nobody gets it."""
        self._server.close()
        self._door = _bind(self.port, listen=False)

    def _arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopping:
            writer.transport.abort()
            return
        task = self._loop.create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not in the task itself: one that is cancelled before its first step never runs.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # An error here means that the other side left: there is nobody to tell.
        with contextlib.suppress(OSError, EOFError):
            await self.serve(reader, writer)
            writer.close()
            await writer.wait_closed()

    async def _finish(self) -> None:
        self._stopping = True
        self._server.close()
        self._door.close()
        for task in self._tasks:
            task.cancel()
        # asyncio's own tasks too: one that is just accepting a connection ends by itself.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)


def _bind(port: int, listen: bool = True) -> socket.socket:
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((HOST, port))
        if listen:
            door.listen(BACKLOG)
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
