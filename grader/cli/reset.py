"""lab reset: an exercise's starter again; the old work is kept aside."""

from __future__ import annotations

import click

from grader.cli.options import EXERCISE, language_option


@click.command("reset")
@EXERCISE
@language_option
def reset_command(id: str, lang: str | None) -> None:
    """Put the starter back in exercises/ID; all of your work there is kept aside first."""
    from datetime import datetime

    from grader.cli import language
    from grader.cli.plain import say, tell
    from grader.exercise import find
    from grader.starter import reset

    lang = lang or language()
    exercise = find(id)
    done = reset(
        exercise,
        datetime.now().astimezone(),
        lambda aside: click.echo(say("reset_aside", lang, folder=aside)),
    )
    if not (done.aside or done.restored):
        tell(say("reset_nothing", lang, id=exercise.id))
        return
    _forget_hints(exercise.id)
    for name in done.restored:
        click.echo(say("reset_restored", lang, file=exercise.folder / name))
    tell(say("reset_done", lang, id=exercise.id))


def _forget_hints(id: str) -> None:
    """Begin with the questions again; best and last score stay."""
    import contextlib
    from dataclasses import replace

    from grader.progress import change

    with contextlib.suppress(OSError), change(id) as standing:
        standing[0] = replace(standing[0], hints={})
