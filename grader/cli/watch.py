"""lab watch: grades on save."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from grader.cli.options import EXERCISE, language_option

LOOK = 200  # milliseconds between two looks at the folder where nothing is reported


@click.command("watch")
@EXERCISE
@click.option(
    "--broker",
    type=click.Choice(["redis", "rabbitmq", "all"]),
    default="all",
    help="The broker to run on; all that the exercise names by default.",
)
@click.option("--seed", type=int, default=None, help="The same inputs each time.")
@language_option
def watch_command(id: str, broker: str, seed: int | None, lang: str | None) -> None:
    """Grade exercises/ID now and whenever you save, until Ctrl-C.

    What failed last time is judged first. A save while it grades ends that and begins anew.
    """
    from grader.cli import language
    from grader.cli.plain import say, warn
    from grader.exercise import find
    from grader.extras import need, supply
    from grader.session import choose_brokers, session

    lang = lang or language()
    exercise = find(id)
    exercise.asked(broker)
    supply(("watch", *exercise.extras), warn, lang)
    need("watch")
    with session() as live:
        brokers, missing = choose_brokers(exercise, broker, live)
        screen = Screen(exercise, brokers, missing, lang)
        click.echo(say("watch_begins", lang, folder=exercise.folder))
        vigil = _vigil(exercise, brokers, live, seed, screen)
        try:
            _keep(vigil, exercise, screen)
        finally:
            vigil.close(live.home)


def _vigil(exercise: Any, brokers: Any, live: Any, seed: int | None, screen: Screen) -> Any:
    from grader.record import last
    from grader.session import draw_seed
    from grader.vigil import Grading, Vigil, in_order

    def start() -> Any:
        ids = in_order(exercise, last(exercise.id))
        screen.clear(len(ids) * len(brokers))
        drawn = draw_seed() if seed is None else seed
        return Grading(exercise, brokers, live, drawn, ids, screen.finding)

    return Vigil(exercise, start, screen.ended)


def _keep(vigil: Any, exercise: Any, screen: Screen) -> None:
    """Look at the folder whenever something happens in it, and a few times a second."""
    from watchfiles import watch

    from grader.errors import UsageError
    from grader.process import stopped

    changes: Iterable[Any] = watch(
        exercise.folder,
        watch_filter=None,
        debounce=LOOK,
        step=50,
        rust_timeout=LOOK,
        yield_on_timeout=True,
    )
    for _ in changes:
        if stopped.is_set():  # an interrupt that Python lost
            raise KeyboardInterrupt
        try:
            vigil.look()
        except UsageError as error:
            screen.say(error.text)


class Screen:
    """What is shown: a line for each criterion as it becomes known, then the card."""

    def __init__(self, exercise: Any, brokers: Any, missing: Any, lang: str) -> None:
        self.exercise, self.brokers, self.missing, self.lang = exercise, brokers, missing, lang
        self.total = 0

    def clear(self, total: int) -> None:
        """Begin anew; what a terminal showed before stays in its scrollback."""
        from datetime import datetime

        from grader.cli.plain import say
        from grader.report import wants_color

        self.total = total
        if wants_color(sys.stdout):
            click.echo("\x1b[H\x1b[2J", nl=False)
        now = f"{datetime.now():%H:%M:%S}"
        click.echo(say("watch_grading", self.lang, id=self.exercise.id, now=now))

    def finding(self, finding: Any, count: int) -> None:
        """Show one criterion's verdict, and how many are left."""
        from grader.grading import line

        words = line(self.exercise, finding, self.lang)
        click.echo(f"{count:>3}/{self.total}  {words}")

    def ended(self, grading: Any) -> None:
        """Show the card of a grading that came to its end, and keep it as the last run."""
        from grader.cli.plain import command
        from grader.record import note, pointer
        from grader.report import render, wants_color
        from grader.vigil import with_missing

        if grading.result is None:
            self.say(grading.error)
            return
        result = with_missing(grading.result, self.missing)
        color = wants_color(sys.stdout)
        click.echo("\n" + render([result], "text", self.lang, color=color), color=color)
        failed = note(self.exercise, self.exercise.folder, result)
        if text := failed or pointer(self.exercise, self.exercise.folder, result, command()):
            click.echo(text.render(self.lang))
        self.wait()

    def say(self, text: Any) -> None:
        """Show a sentence about a grading that did not come to a result."""
        from grader.cli.plain import tell

        if text:
            tell(text.render(self.lang))
        self.wait()

    def wait(self) -> None:
        """Say that it waits."""
        from grader.cli.plain import say

        click.echo(say("watch_waits", self.lang))
