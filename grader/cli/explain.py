"""lab explain: the last run in the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from grader.cli.options import CRITERION, EXERCISE, language_option

LINES = 40


@click.command("explain")
@EXERCISE
@CRITERION
@click.option("--out", type=click.Path(path_type=Path), help="Write the picture to this file.")
@click.option("--all", "whole", is_flag=True, help="Every line, however many there are.")
@language_option
def explain_command(
    id: str, criterion: str | None, out: Path | None, whole: bool, lang: str | None
) -> None:
    """Show what happened in the last run, and where it broke.

    \b
    lab explain 1_2               the run, and the first criterion that it did not pass
    lab explain 1_2 CRITERION     this criterion
    """
    from grader.cli import language
    from grader.cli.plain import command
    from grader.errors import UsageError
    from grader.exercise import find
    from grader.record import last
    from grader.tutor import first_open

    lang = lang or language()
    exercise, record = find(id), last(id.rstrip("/"))
    row = exercise.criterion(criterion) if criterion else None
    if record is None:
        raise UsageError("hint_no_run", id=exercise.id, lab=command())
    row = row or first_open(exercise, record)
    _show(exercise, record, row, whole, lang, out)


def _show(exercise: Any, record: Any, row: Any, whole: bool, lang: str, out: Path | None) -> None:
    from grader.cli.plain import say, tell
    from grader.story import elsewhere, parts

    every = parts(record)
    head = _head(exercise, record, lang)
    tell(head)
    _overview(every, lang)
    said = _said(row, record, lang) if row else []
    named = " ".join(text for _, text in said)
    mine = [part for part in every if row and part.id == row.id]
    chosen = [elsewhere(record, part, named) or part for part in mine]
    if row:
        click.echo()
        tell(f"{row.id}: {_title(row, record, lang)}")
        _labelled(said)
    for part in chosen:
        if part not in mine:
            tell(say("explain_before", lang))
        _tell(part, named, whole, lang)
    if exercise.speed > 1 and any(m["retries"] for part in chosen for m in part.messages):
        tell(say("explain_speed", lang, speed=exercise.speed))
    if row and not chosen:
        tell(say("explain_no_lab", lang))
    _draw(exercise, head, said, every, _worst(chosen), lang, out)


def _head(exercise: Any, record: Any, lang: str) -> str:
    from datetime import datetime

    from grader.cli.plain import say
    from grader.report.document import shown_time

    document = record.documents[lang]
    when = shown_time(datetime.fromisoformat(document["started_at"]))
    score = f"{document['score']}/{document['max_score']}"
    title = f"{exercise.id} {exercise.title[lang]}"
    note = f" {document['note'].splitlines()[0]}" if document["note"] else ""
    return say("explain_head", lang, title=title, when=when, score=score) + note


def _title(row: Any, record: Any, lang: str) -> str:
    from grader.tutor import entries_of

    entries = entries_of(row, record, lang)
    return str(entries[0]["title"]) if entries else str(row.title["zh"])


def _said(row: Any, record: Any, lang: str) -> list[tuple[str, str]]:
    """Return what was wanted and seen of a criterion, and its verdicts."""
    from grader.cli.hint import seen
    from grader.tutor import entries_of

    return seen(entries_of(row, record, lang), lang)


def _labelled(rows: list[tuple[str, str]]) -> None:
    from grader.cli.plain import labelled

    labelled(rows, indent=2)


def _overview(every: Any, lang: str) -> None:
    """Print a line for each criterion that had its turn in a lab."""
    from grader.cli.plain import say, table

    names = ("begins", "takes", "calls", "requests", "faults", "verdict", "criterion")
    for broker in dict.fromkeys(part.broker for part in every):
        click.echo(say("explain_on", lang, broker=broker))
        heads = [say(f"explain_{name}", lang) for name in names]
        table([heads, *_lines([part for part in every if part.broker == broker], lang)])


def _lines(mine: Any, lang: str) -> Iterator[list[str]]:
    from grader.cli.plain import say

    first = mine[0].began
    for part in mine:
        counts = [len(r) + part.left_out.get(k, 0) for k, r in _kinds(part)]
        times = [f"{part.began - first:.2f} s", f"{part.seconds:.2f} s"]
        yield [*times, *map(str, counts), say(f"report_{part.verdict}", lang), part.id]


def _kinds(part: Any) -> list[tuple[str, Any]]:
    return [("calls", part.calls), ("requests", part.requests), ("faults", part.faults)]


def _tell(part: Any, said: str, whole: bool, lang: str) -> None:
    """Print what happened in a criterion's time, a line for each moment.

    Args:
        said: what the criterion wanted and saw: where it names a call, that is where it broke.
    """
    from grader.cli.plain import labelled, say, tell
    from grader.report.document import one_line
    from grader.story import remark

    tell(say("explain_part", lang, broker=part.broker, verdict=say(f"report_{part.verdict}", lang)))
    rows, broke = [], part.broke(said) if part.verdict == "failed" else set()
    for moment in part.moments():
        number = f"#{moment.number} " if moment.number else ""
        words = one_line(moment.words.render(lang))
        if moment.number in broke and moment.kind == "answer":
            words += f"  {say('explain_here', lang)}"
        rows.append((f"{max(0.0, moment.at - part.began):8.3f} s", number + words))
    left = 0 if whole else max(0, len(rows) - LINES)
    labelled(rows[: LINES // 2] if left else rows, indent=2)
    if left:
        tell(say("explain_more", lang, count=left))
        labelled(rows[-LINES // 2 :], indent=2)
    if unsaid := remark(part):
        tell(unsaid.render(lang))


def _worst(chosen: Any) -> Any:
    """Return the part to draw: the first that did not pass, the first if all did."""
    return next((p for p in chosen if p.verdict != "passed"), chosen[0] if chosen else None)


def _draw(
    exercise: Any, head: str, said: Any, every: Any, one: Any, lang: str, out: Path | None
) -> None:
    from grader import progress
    from grader.cli.plain import say, warn
    from grader.errors import UsageError
    from grader.report.picture import draw

    file = out or progress.FOLDER / f"{exercise.id}.svg"
    text = draw(head, [f"{label}: {words}" for label, words in said], every, one, lang)
    click.echo()
    if out and not out.absolute().parent.is_dir():
        raise UsageError("no_out_folder", folder=out.absolute().parent)
    try:
        progress.put(file, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        if out:
            raise UsageError("cannot_write", path=out, error=error.strerror or error) from None
        warn(say("explain_no_picture", lang, file=file, error=error.strerror or error))
        return
    click.echo(say("explain_picture", lang, file=file))
