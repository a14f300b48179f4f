"""The faults that a service can be told to have, and the scripts that say who meets them when.

`latency`, `lost` and `malformed` do the work first; a status, `refuse` and `flap` do none. `hold`
keeps a request until something else has happened, and `kill` ends the process that sent it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# Gets the service's port, the client's own port, and a way to ask whether the request still stands.
Kill = Callable[[int, int], bool]


@dataclass(frozen=True)
class Fault:
    """What happens to one request. Made by the functions below.

    Attributes:
        kind: its name on a timeline.
        works: whether the work is done first.
        status: the answer's status, 0 for the work's own.
        wait: seconds before the answer.
        until: keeps the request until it is true, `wait` seconds at most.
    """

    kind: str
    works: bool
    status: int = 0
    wait: float = 0.0
    until: Callable[[], bool] | None = None

    @property
    def fails(self) -> bool:
        """Whether a client that meets it says that the service failed."""
        return self.kind not in ("hold", "kill") and (self.kind != "latency" or self.wait > 1)

    def __str__(self) -> str:
        details = (str(self.status) if self.status else "", f"{self.wait:g}s" if self.wait else "")
        return " ".join(filter(None, (self.kind, *details)))


def latency(seconds: float) -> Fault:
    """Do the work, and answer so many seconds later."""
    return Fault("latency", True, wait=seconds)


def lost() -> Fault:
    """Do the work and close the connection without an answer."""
    return Fault("lost", True)


def malformed() -> Fault:
    """Do the work and answer 200 with something that is no JSON."""
    return Fault("malformed", True)


def status(code: int) -> Fault:
    """Do nothing and answer with this status."""
    return Fault("status", False, code)


def refuse() -> Fault:
    """Do nothing and close the connection."""
    return Fault("refuse", False)


def flap(times: int) -> list[Fault | None]:
    """Be down and up in turns: so many requests refused, a healthy one after each."""
    return [fault for _ in range(times) for fault in (Fault("flap", False), None)]


def hold(until: Callable[[], bool], at_most: float) -> Fault:
    """Keep the request until something is true, at most so many seconds, then do the work."""
    return Fault("hold", False, wait=at_most, until=until)


def kill(works: bool = True) -> Fault:
    """Have the process that sent the request killed while it waits for the answer.

    Args:
        works: whether the work is done before.
    """
    return Fault("kill", works)


def fault_named(name: str, slow: float) -> list[Fault | None]:
    """Return the faults that a schedule calls by this name.

    Args:
        slow: seconds after which a client has given up.
    """
    word, _, code = name.partition(" ")
    if word == "status":
        return [status(int(code))]
    if word == "flap":
        return flap(2)
    if word == "kill":
        return [kill(works=code != "before")]
    single = {
        "lost": lost(),
        "malformed": malformed(),
        "refuse": refuse(),
        "latency": latency(0.3),
        "slow": latency(slow),
    }
    return [single[word]]


class Troubles:
    """The scripts of all services; each subject plays its own, whatever the others do."""

    def __init__(self) -> None:
        self._scripts: defaultdict[tuple[str, str, str], deque[Fault | None]] = defaultdict(deque)
        self._down: dict[str, Fault] = {}
        self._most_in_a_row = 0  # 0: as many as are scripted
        self._in_a_row: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.kill: Kill = lambda port, client: False

    def script(
        self, service: str, route: str, subject: str, faults: Sequence[Fault | None]
    ) -> None:
        """Add faults to a subject's script."""
        with self._lock:
            self._scripts[service, route, subject].extend(faults)

    def down(self, service: str, fault: Fault | None) -> None:
        """Let everything at a service meet a fault, or nothing any more."""
        with self._lock:
            self._down.pop(service, None)
            if fault:
                self._down[service] = fault

    @contextlib.contextmanager
    def spaced(self, most: int) -> Iterator[None]:
        """While the block runs, after so many failures in a row a service's next request goes well.

        The fault that was scripted for that one is left out. With 0 all are met as scripted.
        """
        self._most_in_a_row = most
        try:
            yield
        finally:
            self._most_in_a_row = 0

    def next(self, service: str, route: str, subject: str) -> Fault | None:
        """Return what the next request of a subject meets."""
        with self._lock:
            fault = self._scripted(service, route, subject)
            if not self._most_in_a_row:
                return fault
            if fault and fault.fails and self._in_a_row[service] < self._most_in_a_row:
                self._in_a_row[service] += 1
                return fault
            self._in_a_row[service] = 0
            return None if fault and fault.fails else fault

    def _scripted(self, service: str, route: str, subject: str) -> Fault | None:
        for place in ((service, route, subject), (service, route, "*")):
            if script := self._scripts.get(place):
                return script.popleft()
        return self._down.get(service)

    @property
    def unmet(self) -> int:
        """How many scripted faults nobody has met yet."""
        with self._lock:
            return sum(fault is not None for row in self._scripts.values() for fault in row)
