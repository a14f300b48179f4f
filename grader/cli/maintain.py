"""The maintainer's commands: test, verify, tables, bench."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from grader.cli import language
from grader.cli.options import grading


@click.command("test", context_settings={"ignore_unknown_options": True})
@click.option(
    "--require",
    multiple=True,
    type=click.Choice(["rabbitmq"]),
    help="Fail instead of skipping where this broker is missing.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def test_command(require: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Run the project's own tests; further arguments go to pytest."""
    import os

    from grader.exercise import ROOT
    from grader.extras import need, supply

    supply(["dev"], lambda line: click.echo(line, err=True), language())
    need("dev")
    env = dict(os.environ)
    if "rabbitmq" in require:
        env["LAB_REQUIRE_RABBITMQ"] = "1"
    command = [sys.executable, "-m", "pytest", *(arguments or (str(ROOT / "tests"),))]
    sys.exit(subprocess.run(command, env=env, cwd=ROOT).returncode)


def _lay(ids: tuple[str, ...], to: Path) -> None:
    from grader.errors import UsageError
    from grader.exercise import find, folders
    from grader.verify import lay_out

    if to.exists():
        raise UsageError("lay_exists", folder=to)
    for id in ids or [folder.name for folder in folders()]:
        count = len(list(lay_out(find(id), to / id)))
        click.echo(f"{to / id}: {count}")


@click.command("verify")
@click.argument("ids", nargs=-1, metavar="[ID ...]")
@click.option("--full", is_flag=True, help="Everything on every broker, every criterion.")
@click.option(
    "--sample",
    is_flag=True,
    help="A sample of each exercise, without its solution, drawn by the seed.",
)
@click.option("--attacks", is_flag=True, help="The published suite of attacks, nothing else.")
@click.option(
    "--lay",
    type=click.Path(path_type=Path),
    default=None,
    help="Only write the wrong answers whole into this new folder, to try them by hand.",
)
@grading
def verify_command(
    ids: tuple[str, ...],
    full: bool,
    sample: bool,
    attacks: bool,
    lay: Path | None,
    **options: Any,
) -> None:
    """Prove that starters fail, solutions shine, and every wrong answer fails as it says."""
    if attacks:
        _attack(ids, options)
    if lay:
        _lay(ids, lay)
        return
    from grader.documents import problems
    from grader.exercise import find, folders
    from grader.extras import supply
    from grader.isolation import demand
    from grader.sandbox import best
    from grader.session import draw_seed, session
    from grader.verify import verify

    if options["strict"]:
        demand(best(), options["unsafe"])
    began, failed, faults = time.monotonic(), 0, 0
    seed = draw_seed() if options["seed"] is None else options["seed"]
    for problem in problems():
        failed += 1
        click.echo(f"FAIL  {problem}")
    wanted = [find(id) for id in ids or (folder.name for folder in folders())]
    supply(dict.fromkeys(e for exercise in wanted for e in exercise.extras), click.echo)
    with session(options["stack"] or "") as stack:
        brokers = _brokers(stack, options)
        for outcome in verify(stack, brokers, seed, full=full, sample=sample, ids=ids):
            faults += outcome.lab_fault
            failed += bool(outcome.problems)
            click.echo(f"{_word(outcome)}  {outcome.name}  {outcome.seconds:.1f} s")
            for problem in outcome.problems:
                click.echo(f"      {problem}")
    click.echo(f"{failed} failed, seed {seed}, {time.monotonic() - began:.0f} s")
    sys.exit(3 if faults else 1 if failed else 0)


def _attack(ids: tuple[str, ...], options: dict[str, Any]) -> None:
    """Run the attacks, print a line each, and leave with 1 if one got anything."""
    from grader.attacks.suite import storm
    from grader.attacks.traces import Traces
    from grader.exercise import find, folders
    from grader.extras import supply
    from grader.session import draw_seed, session

    began, failed, traces = time.monotonic(), 0, Traces()
    seed = draw_seed() if options["seed"] is None else options["seed"]
    exercises = [find(id) for id in ids or [folder.name for folder in folders()]]
    supply(dict.fromkeys(e for exercise in exercises for e in exercise.extras), click.echo)
    with session(options["stack"] or "") as stack:
        for bout in storm(stack, _brokers(stack, options), seed, exercises):
            failed += bool(bout.problems)
            click.echo(str(bout))
    left = traces.found()
    for trace in left:
        click.echo(f"FAIL  left behind: {trace}")
    click.echo(f"{failed + len(left)} failed, seed {seed}, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed or left else 0)


def _word(outcome: Any) -> str:
    if outcome.not_run:
        return "not run"
    return "ok  " if not outcome.problems else "LAB " if outcome.lab_fault else "FAIL"


def _brokers(stack: Any, options: dict[str, Any]) -> tuple[str, ...]:
    """Return the brokers to verify on, and say which one is left out."""
    from grader.errors import NoBroker
    from grader.exercise import BROKERS

    wanted = BROKERS if options["broker"] == "all" else (options["broker"],)
    missing = stack.missing(wanted)
    if set(missing) & set(options["require"]):
        raise NoBroker("no_rabbitmq")
    for broker in missing:
        click.echo(f"not run on {broker}: " + NoBroker("no_rabbitmq").text.render("en"))
    chosen = tuple(b for b in wanted if b not in missing)
    stack.prepare(chosen)
    return chosen


@click.command("tables")
def tables_command() -> None:
    """Write the generated tables of the documents anew."""
    from grader.documents import refresh

    for path in refresh():
        click.echo(f"wrote {path}")


@click.command("bench")
@click.option("--runs", default=5, help="Runs of each figure.")
@click.option("--class", "size", type=int, help="Measure a class of so many instead.")
def bench_command(runs: int, size: int | None) -> None:
    """Measure the figures of the project as ratios to the floor of this machine."""
    import runpy

    from grader.exercise import ROOT

    script = ROOT / "tests" / "benchmarks" / ("course.py" if size else "bench.py")
    sys.argv = [str(script), str(size or runs)]
    runpy.run_path(str(script), run_name="__main__")
