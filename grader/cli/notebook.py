"""lab notebook: open a notebook in JupyterLab, or run it and write the page."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import click

from grader.cli import language


def _ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from grader.notebook.script import ids

    return [id for id in ids() if id.startswith(incomplete)]


@click.command("notebook")
@click.argument("id", required=False, shell_complete=_ids)
@click.option("--lang", type=click.Choice(["en", "zh"]), default=None, help="English or Chinese.")
@click.option("--no-browser", is_flag=True, help="Print the address, open nothing.")
@click.option("--port", type=int, default=0, help="8888 by default, or a free one.")
@click.option(
    "--render",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE.html",
    help="Run it from top to bottom and write the page instead.",
)
def notebook_command(
    id: str | None, lang: str | None, no_browser: bool, port: int, render: Path | None
) -> None:
    """Open a notebook in JupyterLab with the lab up; without ID, list the notebooks."""
    from grader.extras import need, supply
    from grader.notebook import script

    lang = lang or language()
    if id is None:
        click.echo("\n".join(_title(name, lang) for name in script.ids()))
        return
    script.script_of(id)
    supply(["notebooks"], lambda line: click.echo(line, err=True), lang)
    need("notebooks")
    if render:
        _render(id, lang, render)
    else:
        _open(id, lang, not no_browser, port)


def _title(id: str, lang: str) -> str:
    from grader.notebook.script import build

    return str(build(id, lang)["cells"][0]["source"][0]).lstrip("# ").strip()


def _render(id: str, lang: str, to: Path) -> None:
    from grader.notebook import play, server

    with server.lab_up():
        play.render(id, lang, to)
    click.echo(to)


def _open(id: str, lang: str, browser: bool, port: int) -> None:
    from grader.notebook import server
    from grader.words import Text

    for number in (signal.SIGTERM, signal.SIGHUP):  # a terminal that is closed ends it like Ctrl-C
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server.lab_up():
        copy = server.own_copy(id, lang)
        with server.jupyter(copy, browser, port) as (child, url):
            click.echo(Text.of("notebook_open", url=url, path=copy).render(lang))
            child.process.wait()
    click.echo(Text.of("notebook_closed").render(lang))
