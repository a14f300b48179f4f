"""The ledger of the six services: every request, effect and answer, in the order it happened.

It is append-only and belongs to the services' side; nothing of a submission's can write it. What
was true in the end is read from it alone (see invariants).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Who bought what costs a line; a loop gone wild must not fill the grader's memory.
MOST = 200_000


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    `kind` is "request" (it came), "effect" (it changed something), "answer" (it was answered, or
    was not) or "note". `request` numbers the request that the line belongs to, `at` is an epoch
    time in seconds. `subject` is the order's id, or what stands for it where a request names no
    order: the user's id, the first item's id, the amount. `what` holds the rest, as plain data.
    """

    at: float
    kind: str
    request: int
    service: str
    route: str
    subject: str
    what: Mapping[str, Any] = field(default_factory=dict)


class Ledger:
    """The entries so far; safe to use from several threads.

    Args:
        file: also append each entry to this file, one JSON object a line.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()
        self._file = file.open("a", encoding="ascii") if file else None

    def add(
        self, kind: str, request: int, service: str, route: str, subject: str, **what: Any
    ) -> Entry:
        """Append one entry and return it; beyond MOST it is only returned."""
        entry = Entry(time.time(), kind, request, service, route, subject, what)
        with self._lock:
            if len(self._entries) < MOST:
                self._entries.append(entry)
            if self._file:
                self._file.write(json.dumps(asdict(entry), default=repr) + "\n")
                self._file.flush()
        return entry

    @property
    def entries(self) -> list[Entry]:
        """A copy of all entries, the oldest first."""
        with self._lock:
            return list(self._entries)

    @property
    def last(self) -> float:
        """When the last entry was made, 0 if there is none."""
        with self._lock:
            return self._entries[-1].at if self._entries else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Return the entries as plain rows, for `History.requests`."""
        return [asdict(entry) for entry in self.entries]

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file:
            self._file.close()


@dataclass(frozen=True)
class Exchange:
    """One request with its effects and its answer, put together from the ledger.

    `answered` is a status, or "lost", "refused", "hung up", "killed", or None while there is none.
    `fault` names what was done to it, "" for nothing.
    """

    number: int
    at: float
    service: str
    route: str
    subject: str
    method: str
    key: str
    correlation: str
    body: Any
    effects: tuple[Entry, ...] = ()
    answered: int | str | None = None
    fault: str = ""
    ended: float | None = None


def exchanges(
    entries: Iterable[Entry], service: str = "", route: str = "", subject: str = ""
) -> list[Exchange]:
    """Return the requests of a service, route and subject (all where empty), as they came."""
    opened: dict[int, Entry] = {}
    closed: dict[int, Entry] = {}
    effects: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.kind == "request":
            opened[entry.request] = entry
        elif entry.kind == "answer":
            closed[entry.request] = entry
        elif entry.kind == "effect":
            effects.setdefault(entry.request, []).append(entry)
    wanted = (service, route, subject)
    chosen = (e for e in opened.values() if _fits(e, wanted))
    return [_exchange(e, effects.get(e.request, ()), closed.get(e.request)) for e in chosen]


def _fits(entry: Entry, wanted: tuple[str, ...]) -> bool:
    return all(
        not want or want == has
        for want, has in zip(wanted, (entry.service, entry.route, entry.subject), strict=True)
    )


def _exchange(opened: Entry, effects: Iterable[Entry], closed: Entry | None) -> Exchange:
    what = opened.what
    return Exchange(
        opened.request,
        opened.at,
        opened.service,
        opened.route,
        opened.subject,
        what.get("method", ""),
        what.get("key", ""),
        what.get("correlation", ""),
        what.get("body"),
        tuple(effects),
        closed.what.get("answered") if closed else None,
        closed.what.get("fault", "") if closed else "",
        closed.at if closed else None,
    )


def timeline(entries: Iterable[Entry], subjects: Iterable[str], most: int = 40) -> str:
    """Return what happened to an order, a line each, in one column of time.

    Args:
        subjects: the order's id and what else stands for it.
        most: lines at most; the middle is left out.
    """
    wanted = set(subjects)
    mine = [entry for entry in entries if entry.subject in wanted]
    if not mine:
        return "(no request)"
    lines = [line for entry in mine for line in _line(entry, mine[0].at)]
    if len(lines) > most:
        lines = [*lines[: most // 2], "  ...", *lines[-most // 2 :]]
    return "\n".join(lines)


def _line(entry: Entry, start: float) -> Iterator[str]:
    what = entry.what
    words = {
        "request": f"{what.get('method')} {entry.route}" + _key(what.get("key", "")),
        "effect": f"  * {what.get('effect')} {_rest(what)}".rstrip(),
        "answer": f"  -> {what.get('answered')}" + _fault(what.get("fault", "")),
        "note": f"  ! {what.get('text', '')}",
    }
    yield f"+{entry.at - start:6.2f}s {entry.service:<12} #{entry.request:<4} {words[entry.kind]}"


def _key(key: str) -> str:
    return f"  key {key[:40]}" if key else ""


def _fault(fault: str) -> str:
    return f"  [{fault}]" if fault else ""


def _rest(what: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in what.items() if k != "effect")
