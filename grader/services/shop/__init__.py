"""The six services of a shop: one application, each service with its own port, state and faults.

    with Shop() as shop:
        shop.script("payment", "process", "order-1", lost())
        ...
        assert len(exchanges(shop.ledger.entries, "payment", "process", "order-1")) == 2

Everything runs on one event loop in a thread of its own. The ports are known as soon as the shop is
made. `python -m grader.services.shop` runs the same services for work by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from grader.errors import LabFault
from grader.ledger import Ledger
from grader.services import HOST, bind
from grader.services.shop.state import SERVICES, Warehouse
from grader.services.shop.trouble import Fault, Kill, Troubles

OPEN_SECONDS = 20.0


class Shop:
    """The services, running.

    Args:
        file: where the ledger is written besides, for work by hand.
        ports: service -> port; any other gets a free one.
        host: the address to listen on.
        troubles: the faults; by default none until they are scripted.

    Attributes:
        ledger: what happened.
        urls: service -> base URL, without a slash at its end.

    Raises:
        LabFault: a port is taken.
    """

    def __init__(
        self,
        file: Path | None = None,
        ports: Mapping[str, int] | None = None,
        *,
        host: str = HOST,
        troubles: Troubles | None = None,
    ) -> None:
        self.ledger = Ledger(file)
        self._troubles = troubles or Troubles()
        self._numbers = itertools.count(1)
        self._doors = {name: bind((ports or {}).get(name, 0), host) for name in SERVICES}
        self.ports: dict[str, int] = {n: d.getsockname()[1] for n, d in self._doors.items()}
        self.urls = {name: f"http://{host}:{port}" for name, port in self.ports.items()}
        self._servers: list[Any] = []
        self._states: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="shop", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._ready(), self._loop).result(OPEN_SECONDS)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _ready(self) -> None:
        # Not at the top: whoever only names a fault does not need all that.
        import uvicorn

        from grader.services.shop.app import application
        from grader.services.shop.desk import Desk, protocol

        for name, door in self._doors.items():
            app, self._states[name] = application(name, self.ledger)
            desk = Desk(name, app, self.ledger, self._troubles, self._numbers)
            config = uvicorn.Config(
                desk,
                http=protocol(desk),
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # it complains of answers that were withheld on purpose
                access_log=False,
                backlog=512,
                timeout_keep_alive=3600,
            )
            server = uvicorn.Server(config)
            self._servers.append((server, self._loop.create_task(server.serve([door]))))
        while not all(server.started for server, _ in self._servers):
            if any(task.done() for _, task in self._servers):
                raise LabFault("cannot_listen", port="-", error="a service did not start")
            await asyncio.wait([task for _, task in self._servers], timeout=0.005)

    @property
    def warehouse(self) -> Warehouse:
        """The inventory's state: how much there is of each item."""
        state = self._states["inventory"]
        assert isinstance(state, Warehouse)
        return state

    def stock(self, item: str, quantity: int) -> None:
        """Say how much there is of an item."""
        self.warehouse.stock[item] = quantity

    def script(self, service: str, route: str, subject: str, *faults: Fault | None) -> None:
        """Let the next requests of a subject on a route meet these faults, one a request.

        Args:
            service: "user", "inventory", "payment", "order", "notification" or "analytics".
            route: the last word of the route: "process", "mark_failed", "health", ...
            subject: the order's id; see `Entry` for what stands for it elsewhere; "*" for any.
            faults: see `trouble`. After the last one the service is well again.
        """
        self._troubles.script(service, route, subject, faults)

    def down(self, service: str, fault: Fault | None) -> None:
        """Let every request to a service meet this fault, until it is None again."""
        self._troubles.down(service, fault)

    def spaced(self, most: int) -> contextlib.AbstractContextManager[None]:
        """Let no service fail more often in a row while the block runs; 0: as often as scripted."""
        return self._troubles.spaced(most)

    def on_kill(self, kill: Kill) -> None:
        """Say what ends the process whose request meets a `kill` fault."""
        self._troubles.kill = kill

    @property
    def unmet(self) -> int:
        """How many of the scripted faults no request has met yet."""
        return self._troubles.unmet

    def stop(self) -> None:
        """End the services; again does nothing."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(OPEN_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(OPEN_SECONDS)
        for door in self._doors.values():
            door.close()
        self.ledger.close()

    async def _finish(self) -> None:
        for server, _ in self._servers:
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            server.should_exit = server.force_exit = True
        tasks = [task for _, task in self._servers]
        await asyncio.wait(tasks, timeout=2)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
