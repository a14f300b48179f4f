"""Feedback for a student in Markdown: a table, then what to look at.

Foreign words (what a submission returned or printed, its name) go into code spans, the one place
where Markdown reads nothing: no HTML, no link, no image, no @mention. The lab's own sentences are
escaped, all but their `code`.
"""

from __future__ import annotations

import re
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

# What means something inside a line. Marks that count only where a line begins are left alone,
# because every line here begins with one of ours; an underscore inside a word is only that.
_SPECIAL = re.compile(
    r"[\\`*\[\]<>#|~&@$] | (?<![^\W_])_ | _(?![^\W_]) | :(?=//) | (?<=www)\.", re.VERBOSE
)
_CODE = re.compile(r"`([^`]+)`")
# A spreadsheet takes a cell that begins so for a formula; the wide forms count in some countries.
_FORMULA = tuple("=+-@＝＋－＠")


def render(documents: Sequence[Document], style: Style) -> str:
    """Return the feedback, one first-level heading an exercise."""
    parts = ["\n".join(_summary(documents, style))] if style.many else []
    return "\n\n".join(parts + ["\n".join(_feedback(d, style)) for d in documents])


def code(text: str) -> str:
    """Return `text` in a code span, on one line, that it can't end by itself."""
    words = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", words)), default=0)
    # One space on either side is not shown; it keeps backticks at the ends apart from the fence.
    space = " " if words.startswith("`") or words.endswith("`") else ""
    fence = "`" * (longest + 1)
    return f"{fence}{space}{words}{space}{fence}" if words else ""


def prose(text: str) -> str:
    """Return the lab's own words, escaped, on one line; `code` stays code."""
    parts = _CODE.split(" ".join(text.split()))
    return "".join(code(p) if n % 2 else _SPECIAL.sub(r"\\\g<0>", p) for n, p in enumerate(parts))


def cell(text: str, foreign: bool = False) -> str:
    """Return `text` for a table's cell: no bar, and nothing a spreadsheet would calculate."""
    safe = f"'{text}" if text.lstrip(" `").startswith(_FORMULA) else text
    if foreign:
        # Programs do not agree whether a bar after two backslashes ends the cell.
        return code(safe.replace("|", "\u00a6"))
    return re.sub(r"(?<!\\)\|", r"\\|", prose(safe))


def _feedback(document: Document, style: Style) -> Iterator[str]:
    yield f"# {prose(document['exercise'])}: {prose(score(document, False, style))}"
    yield ""
    yield from _facts(document, style)
    if document["note"]:
        yield _item(Line(style.say("not_graded"), document["note"], True))
        return
    yield from ["", *_table(document, style)]
    every = [row for bonus in (False, True) for row in rows(document, bonus)]
    if open_rows := [row for row in every if explain(row, style)]:
        yield from ["", f"## {prose(style.say('details'))}"]
        for row in open_rows:
            yield from _details(row, style)


def _facts(document: Document, style: Style) -> Iterator[str]:
    lines = [
        Line(style.say("submission"), document["submission"], True),
        Line(style.say("brokers"), ", ".join(document["broker"]), False),
        *(
            Line(style.say("not_run"), style.say("not_run_plain", broker=broker), False)
            for broker in document["brokers_not_run"]
        ),
        Line(style.say("seed"), str(document["seed"]), False),
        Line(style.say("isolation"), document["isolation"], False),
        *(Line(style.say("remark"), remark, True) for remark in document["remarks"]),
    ]
    if document["unsafe"]:
        lines.append(Line(style.say("isolation"), style.say("unsafe"), False))
    if document["max_bonus"]:
        lines.insert(0, Line(style.say("bonus"), score(document, True, style), False))
    if missing := undecided(document["criteria"]):
        lines.insert(0, Line(style.say("open"), style.say("open_why", points=missing), False))
    return (_item(line) for line in lines if line.text)


def _item(line: Line) -> str:
    return f"- **{prose(line.label)}**: {code(line.text) if line.foreign else prose(line.text)}"


def _table(document: Document, style: Style) -> Iterator[str]:
    columns = brokers(document)
    yield _row([cell(w) for w in (style.say("criterion"), *columns, style.say("points"))])
    yield _row(["---"] * (len(columns) + 1) + ["---:"])
    for bonus in (False, True):
        for row in rows(document, bonus):
            marks = {entry["broker"]: style.say(entry["verdict"]) for entry in row}
            title = row[0]["title"] + (f" ({style.say('bonus')})" if bonus else "")
            # An empty cell: the criterion was not tried on that broker.
            words = (title, *(marks.get(broker, "") for broker in columns), points(row))
            yield _row([cell(word) for word in words])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _details(row: list[Entry], style: Style) -> Iterator[str]:
    yield from ["", f"### {prose(row[0]['title'])}", ""]
    yield from (_item(line) for line in explain(row, style))


def _summary(documents: Sequence[Document], style: Style) -> Iterator[str]:
    heads = [style.say(key) for key in ("exercise", "score", "bonus", "submission")]
    yield _row([cell(head) for head in heads])
    yield _row(["---", "---:", "---:", "---"])
    for document in documents:
        scores = [score(document, bonus, style) for bonus in (False, True)]
        start = [cell(word) for word in (document["exercise"], *scores)]
        yield _row([*start, cell(document["submission"], foreign=True)])
