"""A result as a plain document, as result.schema.json describes it, and what all formats share.

Words in a document may come from strangers (a task's result, an error message, a folder's name).
`clean` is the one place where they are made harmless; everything that goes into a document passes
through it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grader.report import Style
    from grader.verdict import Finding, Result
    from grader.words import Text

SCHEMA = Path(__file__).with_name("result.schema.json")
FORMAT = 1
LONGEST = 1200

# Their fields are fixed by the schema, which is also what the tests hold them to.
Document = dict[str, Any]
Entry = dict[str, Any]


def clean(text: str, limit: int = LONGEST) -> str:
    """Return `text` fit to be shown anywhere: at most `limit` characters, and all of them visible.

    Terminal escapes, other control characters, bidirectional overrides, invisible characters and
    lone surrogates become \\x1b, \\u202e and the like. Line feeds stay; a tab is a space.
    """
    short = _cut(text.strip(), limit).replace("\r\n", "\n").replace("\t", " ")
    return _cut("".join(c if c.isprintable() or c == "\n" else _escape(c) for c in short), limit)


def one_line(text: str) -> str:
    """Return `text` as `clean` does, line feeds too made visible: a folder may have one."""
    return clean(text).replace("\n", "\\n")


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _escape(character: str) -> str:
    # unicode_escape also knows lone surrogates, which no encoding can write.
    return character.encode("unicode_escape").decode("ascii")


def shown_time(at: datetime | None) -> str:
    """Return a time to the minute, in this machine's zone; "" for none."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M") if at else ""


def number(value: float) -> int | float:
    """Return points without a needless fraction: 10, not 10.0."""
    return int(value) if value == int(value) else round(value, 2)


def document(result: Result, lang: str) -> Document:
    """Return the result as result.schema.json describes it, its sentences in `lang`."""
    return {
        "format": FORMAT,
        "exercise": one_line(result.exercise),
        "submission": one_line(result.submission),
        "status": result.status.value,
        "score": number(result.score),
        "max_score": number(result.max_score),
        "bonus": number(result.bonus),
        "max_bonus": number(result.max_bonus),
        "broker": list(result.brokers),
        "brokers_not_run": list(result.brokers_not_run),
        "seed": result.seed,
        "criteria": [_entry(finding, lang) for finding in result.findings],
        # astimezone gives a time without an offset the machine's own.
        "started_at": result.started_at.astimezone(result.started_at.tzinfo).isoformat(
            timespec="milliseconds"
        ),
        "seconds": round(result.seconds, 3),
        "isolation": one_line(result.isolation.render(lang)),
        "unsafe": result.unsafe,
        "note": _words(result.note, lang),
        "remarks": [clean(remark.render(lang)) for remark in result.remarks],
    }


def _entry(finding: Finding, lang: str) -> Entry:
    return {
        "id": finding.id,
        "title": one_line(finding.title.render(lang)),
        "points": number(finding.points),
        "max_points": number(finding.max_points),
        "bonus": finding.bonus,
        "verdict": finding.verdict.value,
        "broker": finding.broker,
        "expected": _words(finding.expected, lang),
        "observed": _words(finding.observed, lang),
        "hint": _words(finding.hint, lang),
        "seconds": round(finding.seconds, 3),
    }


def _words(text: Text, lang: str) -> str | None:
    return clean(text.render(lang)) or None


def render(documents: Sequence[Document], style: Style) -> str:
    """Return the JSON: one document, or {"format": 1, "results": [...]}."""
    whole = {"format": FORMAT, "results": list(documents)} if style.many else documents[0]
    return json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False)


def brokers(document: Document) -> list[str]:
    """Return the brokers of a document's entries, those that the result names first."""
    return list(dict.fromkeys([*document["broker"], *(e["broker"] for e in document["criteria"])]))


def rows(document: Document, bonus: bool) -> list[list[Entry]]:
    """Return the core or the bonus entries, those of one criterion together."""
    found: dict[str, list[Entry]] = {}
    for entry in document["criteria"]:
        if entry["bonus"] is bonus:
            found.setdefault(entry["id"], []).append(entry)
    return list(found.values())


def undecided(entries: Iterable[Entry]) -> int | float:
    """Return the points that nobody could judge because the lab failed."""
    return number(sum(e["max_points"] for e in entries if e["verdict"] == "unknown"))


def points(entries: Iterable[Entry]) -> str:
    """Return what the entries earned of what they could: 5/10, or 5+?/10 where some is undecided.

    A criterion that could not be judged must not look like one that earned nothing.
    """
    listed = list(entries)
    earned = number(sum(e["points"] for e in listed))
    most = number(sum(e["max_points"] for e in listed))
    if not undecided(listed):
        return f"{earned}/{most}"
    return f"{earned}+?/{most}" if earned else f"?/{most}"


def score(document: Document, bonus: bool, style: Style) -> str:
    """Return a document's core or bonus points; without a criterion `not graded`, or no bonus."""
    listed = [e for e in document["criteria"] if e["bonus"] is bonus]
    if not bonus and document["score"] != number(sum(e["points"] for e in listed)):
        # Set by hand: the criteria keep their verdicts, and what counts is this.
        return f"{document['score']}/{document['max_score']}"
    if listed:
        return points(listed)
    return "" if bonus else style.say("not_graded")


@dataclass(frozen=True)
class Line:
    """One line of an explanation.

    `foreign` text may hold a submission's own words; `tone` names a colour of the score card.
    """

    label: str
    text: str
    foreign: bool
    tone: str = ""


def explain(entries: Sequence[Entry], style: Style) -> list[Line]:
    """Return what there is to say about a criterion's entries that are not passed.

    What the brokers have in common is said once; where they differ, the broker is named.
    """
    failed, blocked, unknown = (
        [e for e in entries if e["verdict"] == verdict]
        for verdict in ("failed", "blocked", "unknown")
    )
    lines = [
        *_said(failed, "expected", style.say("expected"), True),
        *_said(failed, "observed", style.say("seen"), True),
        *_said(failed, "hint", style.say("hint"), False),
        *_said(blocked, "observed", style.say("blocked"), False),
    ]
    if unknown:
        lines.append(Line(style.say("unknown"), style.say("lab_fault"), False))
    return lines + _said(unknown, "observed", style.say("seen"), True)


def _said(entries: Sequence[Entry], field: str, label: str, foreign: bool) -> list[Line]:
    texts = [entry[field] for entry in entries]
    if len(set(texts)) == 1:
        return [Line(label, texts[0], foreign)] if texts[0] else []
    named = ((e["broker"], e[field]) for e in entries if e[field])
    return [Line(label, f"{broker}: {text}", foreign) for broker, text in named]
