"""The score card: a result in plain text of 79 columns, with or without colour.

Only ASCII is used to draw. Lines and dots from the Unicode tables are one column wide in some
terminals and two in others, above all in Chinese ones, and the columns would not meet. Nothing
here needs rich, whose import takes longer than writing the card.
"""

from __future__ import annotations

import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence

from grader.report import Style
from grader.report.document import (
    Document,
    Entry,
    Line,
    brokers,
    explain,
    points,
    rows,
    score,
    undecided,
)

WIDTH = 79
LINES = 8
_COLOURS = {
    "passed": "32",
    "failed": "1;31",
    "blocked": "33",
    "unknown": "35",
    "quiet": "2",
    "strong": "1",
    "": "",
}
# A line may be broken before any wide character, but not before a closing mark, nor after an
# opening one.
_WIDE = (
    "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60"
    "\uffe0-\uffe6\U0001f300-\U0001faff\U00020000-\U0003fffd"
)
_OPENING, _CLOSING = "（「『《【“‘", "，。、；：！？）」』》】”’"
_PIECE = re.compile(f" +|[{_OPENING}]*[{_WIDE}][{_CLOSING}]*|[^ {_WIDE}]+[{_CLOSING}]*")


def render(documents: Sequence[Document], style: Style) -> str:
    """Return a card for each document, and a summary after more than one."""
    cards = ["\n".join(_card(document, style)) for document in documents]
    if style.many:
        cards.append("\n".join(_summary(documents, style)))
    return "\n\n".join(cards)


def width(text: str) -> int:
    """Return the columns that a text of one line takes in a terminal."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me")
        else 2 if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )  # fmt: skip


def wrap(text: str, columns: int) -> list[str]:
    """Return the lines of `text`, broken at spaces and beside wide characters."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for piece in _pieces(paragraph, columns):
            if width(line) + width(piece.rstrip()) > columns:
                lines.append(line.rstrip())
                line = ""
            line += piece if line or not piece.isspace() else ""
        lines.append(line.rstrip())
    return lines


def _pieces(text: str, columns: int) -> Iterator[str]:
    """Yield what must stay on one line; a word that no line can hold is broken."""
    for piece in _PIECE.findall(text):
        while width(piece) > columns:
            yield piece[: columns // 2]
            piece = piece[columns // 2 :]
        yield piece


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def _paint(text: str, colour: str, style: Style) -> str:
    code = _COLOURS[colour] if style.color and text.strip() else ""
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _rule(style: Style) -> str:
    return _paint("-" * WIDTH, "quiet", style)


def _card(document: Document, style: Style) -> list[str]:
    title = wrap(f"{document['exercise']}  {document['submission']}", WIDTH)
    head = [_paint(line, "strong", style) for line in title] + [_rule(style)]
    footer = _footer(document, style)
    return head + _body(document, style) + ([_rule(style), *footer] if footer else [])


def _body(document: Document, style: Style) -> list[str]:
    if document["note"]:
        # Every criterion is blocked by the same thing: it is said once instead of row by row.
        return _labelled([Line(style.say("not_graded"), document["note"], True)], style, 0)
    columns = _Columns(document, style)
    core, bonus = rows(document, False), rows(document, True)
    lines = [columns.heading(), *(line for row in core for line in columns.row(row))]
    if bonus:
        lines += ["", _paint(style.say("bonus"), "strong", style)]
    return lines + [line for row in bonus for line in columns.row(row)]


class _Columns:
    """The table of one card: a mark for each broker, the points, the title."""

    def __init__(self, document: Document, style: Style) -> None:
        self.style, self.brokers = style, brokers(document)
        marks = [style.say(v) for v in ("passed", "failed", "blocked", "unknown")]
        self.mark = max(width(word) for word in [*marks, *self.brokers])
        every = [points(row) for bonus in (False, True) for row in rows(document, bonus)]
        self.points = max(width(word) for word in [style.say("points"), *every])

    def heading(self) -> str:
        names = "".join(_pad(name, self.mark + 2) for name in self.brokers)
        word = self.style.say("points")
        return _paint(names + " " * (self.points - width(word)) + word, "quiet", self.style)

    def row(self, row: list[Entry]) -> list[str]:
        marks = {entry["broker"]: entry["verdict"] for entry in row}
        start = "".join(self._mark(marks.get(broker)) for broker in self.brokers)
        start += points(row).rjust(self.points) + "  "
        indent = (self.mark + 2) * len(self.brokers) + self.points + 2
        # The id is what `pytest -k` takes.
        first, *rest = wrap(f"{row[0]['id']}: {row[0]['title']}", WIDTH - indent)
        titles = [start + first, *(" " * indent + line for line in rest)]
        return titles + _labelled(explain(row, self.style), self.style, 4)

    def _mark(self, verdict: str | None) -> str:
        if verdict is None:
            return _pad("-", self.mark + 2)
        return _paint(_pad(self.style.say(verdict), self.mark + 2), verdict, self.style)


def _labelled(lines: Sequence[Line], style: Style, indent: int) -> list[str]:
    """Return lines with their labels in a column; a label is not repeated below itself."""
    column = max((width(line.label) for line in lines), default=0) + 2
    written, last = [], ""
    for line in lines:
        label = line.label if line.label != last else ""
        for text in _few(wrap(line.text, WIDTH - indent - column)):
            start = " " * indent + _paint(_pad(label, column), "quiet", style)
            written.append((start + _paint(text, line.tone, style)).rstrip())
            label = ""
        last = line.label
    return written


def _few(lines: list[str]) -> list[str]:
    if len(lines) <= LINES:
        return lines
    half = LINES // 2
    return [*lines[:half], "...", *lines[-half:]]


def _footer(document: Document, style: Style) -> list[str]:
    lines = [
        Line(style.say("brokers"), ", ".join(document["broker"]), False),
        *(_not_run(broker, style) for broker in document["brokers_not_run"]),
    ]
    if document["criteria"]:
        seed, seconds = document["seed"], f"{document['seconds']:.1f}"
        lines = [
            *_scores(document, style),
            *lines,
            Line(style.say("seed"), style.say("repeat", seed=seed), False),
            *_isolation(document, style),
            *(Line(style.say("remark"), remark, True) for remark in document["remarks"]),
            Line(style.say("time"), style.say("seconds", seconds=seconds), False),
        ]
    return _labelled([line for line in lines if line.text], style, 0)


def _scores(document: Document, style: Style) -> Iterator[Line]:
    complete = document["max_score"] and document["score"] == document["max_score"]
    core = score(document, False, style)
    if document["max_bonus"]:
        core += f"   {style.say('bonus')} {score(document, True, style)}"
    yield Line(style.say("score"), core, False, "passed" if complete else "strong")
    if document["status"] == "ungradable" and not document["note"]:
        yield Line(style.say("not_graded"), style.say("nothing_tried"), False)
    if missing := undecided(document["criteria"]):
        yield Line(style.say("open"), style.say("open_why", points=missing), False)


def _isolation(document: Document, style: Style) -> Iterator[Line]:
    yield Line(style.say("isolation"), document["isolation"], False)
    if document["unsafe"]:
        yield Line(style.say("isolation"), style.say("unsafe"), False, "failed")


def _not_run(broker: str, style: Style) -> Line:
    command = _install(broker, style)
    return Line(
        style.say("not_run"), style.say("not_run_why", broker=broker, command=command), False
    )


def _install(broker: str, style: Style) -> str:
    """Return the command that installs a broker on this machine."""
    if sys.platform == "darwin":
        return f"brew install {broker}"
    if shutil.which("apt"):
        return f"apt install {broker}-server"
    return style.say("point_to", variable=f"LAB_{broker.upper()}_URL")


def _summary(documents: Sequence[Document], style: Style) -> list[str]:
    head = [style.say(key) for key in ("exercise", "score", "bonus", "submission")]
    table = [head] + [
        [d["exercise"], score(d, False, style), score(d, True, style), d["submission"]]
        for d in documents
    ]
    columns = [max(width(row[n]) for row in table) + 2 for n in range(3)]
    lines = []
    for row in table:
        start = "".join(_pad(cell, column) for cell, column in zip(row, columns, strict=False))
        first, *rest = wrap(row[3], max(20, WIDTH - sum(columns)))
        lines += [start + first, *(" " * sum(columns) + line for line in rest)]
    return [_paint(lines[0], "quiet", style), _rule(style), *lines[1:]]
