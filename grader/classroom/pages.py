"""How a page is made: the templates, and what they can say."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from grader.report import Style
from grader.report.document import number, one_line, shown_time
from grader.words import Text

TEMPLATES = Path(__file__).with_name("templates")


def pages(lang: str) -> Environment:
    """Return the templates; every word that is put into them is escaped."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"line": one_line, "number": number, "time": shown_time, "prose": _prose}
    made.globals |= {"say": partial(say, lang), "report": Style(lang).say, "lang": lang}
    return made


def say(lang: str, key: str, **fields: object) -> str:
    """Return the sentence `site_<key>` in that language."""
    return Text.of(f"site_{key}", **fields).render(lang)


def put(path: Path, text: str) -> Path:
    """Write a page and return its path; half a character of a stranger's is shown as its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return path


def _prose(text: str) -> Markup:
    """Return the lab's own words as HTML; what stands between backticks is code."""
    parts = one_line(text).split("`")
    marked = [f"<code>{escape(p)}</code>" if n % 2 else escape(p) for n, p in enumerate(parts)]
    return Markup("".join(marked)) if len(parts) % 2 else escape(one_line(text))
