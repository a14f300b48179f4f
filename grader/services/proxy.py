"""A TCP proxy that stands between a client and a server and fails on command.

It knows nothing of what it carries, so it serves Redis and AMQP alike. Its behaviour is one of
`pass_through`, `delay`, `blackhole` and `refuse`; `cut` is an act and changes none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import Counter

from grader.services import Server, reset

CHUNK = 65536


class Mode(enum.Enum):
    """What the proxy does with connections and bytes."""

    PASS = "pass"
    DELAY = "delay"
    BLACKHOLE = "blackhole"
    REFUSE = "refuse"


class _Link:
    """One client's connection and, once it is made, the one to the target."""

    def __init__(self, task: asyncio.Task[None] | None, client: asyncio.StreamWriter) -> None:
        self.task, self.writers = task, [client]
        self.spoilt = False

    def cut(self) -> None:
        for writer in self.writers:
            reset(writer)


class Proxy(Server):
    """Forwards `port` on loopback to a target.

    `connections` were accepted so far, `open` of them stand now. `bytes["up"]` went to the target,
    `bytes["down"]` came from it, `bytes["lost"]` were swallowed by the black hole, either way.

    Args:
        target_host, target_port: where to connect to, once for each client.
        port: the port to listen on, 0 for a free one.
    """

    def __init__(self, target_host: str, target_port: int, port: int = 0) -> None:
        self.target = (target_host, target_port)
        self.connections = 0
        self.bytes: Counter[str] = Counter()
        self._links: set[_Link] = set()
        self._mode, self._seconds = Mode.PASS, 0.0
        self._changed = asyncio.Event()
        super().__init__(port)

    @property
    def open(self) -> int:
        """How many connections stand now."""
        return len(self._links)

    def pass_through(self) -> None:
        """Forward everything at once again.

        A connection that the black hole took bytes from is cut: what came next would make no sense
        to the other side.
        """
        self._call(self._become(Mode.PASS))

    def delay(self, seconds: float) -> None:
        """Forward each piece (at most 64 KiB) so many seconds late, either way."""
        self._call(self._become(Mode.DELAY, seconds))

    def blackhole(self) -> None:
        """Accept and read, and forward nothing either way, not even that a side has left."""
        self._call(self._become(Mode.BLACKHOLE))

    def refuse(self) -> None:
        """Refuse new connections; those that stand stay until `cut`, and the port stays ours."""
        self._call(self._become(Mode.REFUSE))

    def cut(self) -> int:
        """Reset every connection, on both sides; return how many there were.

        New ones are accepted at once, so `refuse` first where none should be.
        """
        return self._call(self._cut(self._links))

    async def _become(self, mode: Mode, seconds: float = 0.0) -> None:
        before, self._mode, self._seconds = self._mode, mode, seconds
        self._changed.set()
        self._changed = asyncio.Event()
        if before is Mode.BLACKHOLE is not mode:
            await self._cut({link for link in self._links if link.spoilt})
        if mode is Mode.REFUSE is not before:
            self._close_door()
        elif before is Mode.REFUSE is not mode:
            await self._open_door()

    async def _cut(self, links: set[_Link]) -> int:
        doomed = list(links)
        for link in doomed:
            link.cut()
            if link.task:
                link.task.cancel()
        closing = [writer.wait_closed() for link in doomed for writer in link.writers]
        await asyncio.gather(*closing, return_exceptions=True)
        return len(doomed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one client's bytes until both sides have ended, or one of them breaks."""
        link = _Link(asyncio.current_task(), writer)
        self._links.add(link)
        self.connections += 1
        try:
            if self._mode is Mode.BLACKHOLE:
                link.spoilt = True
                await self._swallow(reader)
            else:
                await self._join(link, reader, writer)
        except BaseException:
            link.cut()
            raise
        finally:
            self._links.discard(link)

    async def _join(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self.target)
        link.writers.append(far_writer)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, far_writer, "up"))
                pumps.create_task(self._pump(link, far_reader, writer, "down"))
        except* OSError as broken:
            raise ConnectionError("one side broke off") from broken
        far_writer.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        try:
            while chunk := await reader.read(CHUNK):
                await self._forward(link, chunk, writer, way)
        except OSError:
            if self._mode is not Mode.BLACKHOLE:
                raise
        if self._mode is Mode.BLACKHOLE:
            link.spoilt = True
        else:
            writer.write_eof()

    async def _forward(
        self, link: _Link, chunk: bytes, writer: asyncio.StreamWriter, way: str
    ) -> None:
        await self._hold()
        lost = self._mode is Mode.BLACKHOLE
        # Counted first: whoever has read the bytes must find them counted.
        self.bytes["lost" if lost else way] += len(chunk)
        if lost:
            link.spoilt = True
        else:
            writer.write(chunk)
            await writer.drain()

    async def _hold(self) -> None:
        """Wait as long as the delay is, or until the proxy is told something else."""
        if self._seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._changed.wait()

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(CHUNK):
            self.bytes["lost"] += len(chunk)
