"""What happened in a run, as one picture (SVG): calls by task, requests by service, faults across.

Drawn from a saved history (grader/history.py), which holds a submission's own words: every text
passes through `one_line` and is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from grader.history import done_at
from grader.report.document import one_line

ROWS = 16
MARKS = 150  # a row; what lies closer than a pixel is one mark
LEFT, WIDTH, HEIGHT, TOP, RIGHT = 190, 560, 18, 22, 14
LONGEST = 28


@dataclass(frozen=True)
class Mark:
    """Something in a row: from when to when, in seconds since 1970, and of which kind."""

    row: str
    begin: float
    end: float
    kind: str  # good, bad, open, request


def timeline(history: Mapping[str, Any], title: str) -> str:
    """Return the picture of a history, "" where nothing happened.

    Args:
        history: as `History.save` wrote it.
        title: what the picture is of, for those who can't see it.
    """
    marks = sorted((*_calls(history), *_requests(history)), key=lambda mark: mark.begin)
    if not marks:
        return ""
    first = min(mark.begin for mark in marks)
    last = max(mark.end for mark in marks)
    scale = WIDTH / max(last - first, 0.001)
    rows = list(dict.fromkeys(mark.row for mark in marks))[:ROWS]
    height = TOP + HEIGHT * len(rows) + 16
    parts = [
        f'<svg class="timeline" role="img" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}">',
        f"<title>{escape(title)}</title>",
        *_faults(history, first, last, scale, height),
    ]
    for number, row in enumerate(rows):
        parts += _row(row, [m for m in marks if m.row == row], number, first, scale)
    end = f"{last - first:.1f} s"
    parts.append(f'<text x="{LEFT + WIDTH}" y="{height - 3}" text-anchor="end">{end}</text></svg>')
    return "".join(parts)


def _row(
    name: str, marks: Iterable[Mark], number: int, first: float, scale: float
) -> Iterator[str]:
    y = TOP + HEIGHT * number
    shown = one_line(name)
    short = shown if len(shown) <= LONGEST else f"…{shown[-LONGEST + 1 :]}"
    yield f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(short)}</text>'
    yield f'<path class="line" d="M{LEFT} {y + 8}h{WIDTH}"/>'
    strokes: dict[str, dict[tuple[int, int], None]] = {}
    for mark in marks:
        x = round((mark.begin - first) * scale)
        width = max(2, round((mark.end - mark.begin) * scale))
        strokes.setdefault(mark.kind, {})[x, width] = None
    for kind, found in strokes.items():
        path = "".join(f"M{LEFT + x} {y + 8}h{width}" for x, width in list(found)[:MARKS])
        yield f'<path class="{kind}" d="{path}"/>'


def _calls(history: Mapping[str, Any]) -> Iterator[Mark]:
    for call in history.get("calls", ()):
        reply, begin = call.get("reply"), float(call.get("sent_at") or 0)
        if not begin:
            continue
        state = reply["state"] if reply else ""
        kind = {"SUCCESS": "good", "FAILURE": "bad"}.get(state, "open")
        end = max(begin, done_at(str(reply.get("raw", ""))) or begin) if reply else begin
        # A result that claims to be of another day would stretch the picture to nothing.
        yield Mark(str(call["task"]), begin, min(end, begin + 600), kind)


def _requests(history: Mapping[str, Any]) -> Iterator[Mark]:
    for request in history.get("requests", ()):
        if at := float(request.get("at") or 0):
            took = float(request.get("ended") or 0) - float(request.get("began") or 0)
            kind = "bad" if str(request.get("answered"))[:1] not in "23" else "request"
            yield Mark(f"HTTP {request.get('service')}", at, at + min(max(took, 0), 600), kind)


def _faults(
    history: Mapping[str, Any], first: float, last: float, scale: float, height: int
) -> Iterator[str]:
    for fault in list(history.get("faults", ()))[:MARKS]:
        at = float(fault.get("at") or 0)
        if first <= at <= last:
            x = LEFT + round((at - first) * scale)
            kind = escape(one_line(str(fault.get("kind"))))
            yield f'<path class="fault" d="M{x} {TOP - 4}V{height - 16}"/>'
            yield f'<text class="fault" x="{x}" y="{TOP - 8}">{kind}</text>'
