"""lab hint: one criterion's hints, a step at a time."""

from __future__ import annotations

from typing import Any

import click

from grader.cli.options import CRITERION, EXERCISE, language_option


@click.command("hint")
@EXERCISE
@CRITERION
@click.option("--step", type=click.IntRange(1, 3), help="This step, not the next one.")
@language_option
def hint_command(id: str, criterion: str | None, step: int | None, lang: str | None) -> None:
    """Ask for a hint: first a question, then where to look, then what to do.

    \b
    lab hint 1_2                  on the first criterion that the last run did not pass
    lab hint 1_2 CRITERION        on this one; each call goes one step further
    lab hint 1_2 CRITERION --step 1
    """
    from grader.cli import language
    from grader.cli.plain import check_progress
    from grader.exercise import find
    from grader.record import last
    from grader.tutor import first_open

    lang = lang or language()
    check_progress(lang)
    exercise, record = find(id), last(id.rstrip("/"))
    row = exercise.criterion(criterion) if criterion else record and first_open(exercise, record)
    if row is None:
        _nothing_open(exercise, record, lang)
        return
    _show(exercise, row, record, step, lang)


def _nothing_open(exercise: Any, record: Any, lang: str) -> None:
    """Say what to run where there is nothing to give a hint on."""
    from grader.cli.plain import command, say, tell
    from grader.errors import UsageError

    if record is None:
        raise UsageError("hint_no_run", id=exercise.id, lab=command())
    tried = {entry["id"] for entry in record.entries("en")}
    key = "hint_all_passed" if len(tried) >= len(exercise.criteria) else "hint_some_passed"
    tell(say(key, lang, id=exercise.id, tried=len(tried), every=len(exercise.criteria)))


def _show(exercise: Any, row: Any, record: Any, wanted: int | None, lang: str) -> None:
    from grader.cli.plain import command, labelled, say, tell, warn
    from grader.tutor import LAST, advance, entries_of, text_of

    step, failed = advance(exercise, row, record, wanted)
    text = text_of(exercise, row, step, record)
    title = exercise.checks[row.id].claim if lang == "en" else row.title["zh"]
    tell(f"{exercise.id}  {row.id}: {title}")
    labelled(seen(entries_of(row, record, lang), lang))
    click.echo()
    kind = say(f"hint_step_{step}", lang)
    tell(f"{say('hint_step', lang, step=step, steps=LAST, kind=kind)} {text.render(lang)}".rstrip())
    if not text:
        tell(say("hint_not_there", lang, id=exercise.id))
    elif step < LAST:
        next = f"{command()} hint {exercise.id} {row.id}"
        tell(say(f"hint_next_{step + 1}", lang, command=next))
    if failed:
        warn(say("hint_not_kept", lang, error=failed.strerror or failed))


def seen(entries: Any, lang: str) -> list[tuple[str, str]]:
    """Return the lines that say what the last run saw of a criterion."""
    from grader.cli.plain import say
    from grader.report import Style
    from grader.report.document import explain

    if not entries:
        return [(say("hint_last_run", lang), say("hint_not_tried", lang))]
    marks = ", ".join(f"{e['broker']} {say('report_' + e['verdict'], lang)}" for e in entries)
    lines = [line for line in explain(list(entries), Style(lang)) if line.text]
    hint = say("report_hint", lang)
    rows = [(line.label, line.text) for line in lines if line.label != hint]
    return [(say("hint_last_run", lang), marks), *rows]
