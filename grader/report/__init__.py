"""Results as text for people and for other programs: score card, JSON, JUnit, Gradescope, Markdown.

A result is first made into a plain document (document.py); every format is written from documents
alone, so that text from a submission is made harmless in one place, and a stored document can be
written again in any format.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from grader.verdict import Result

# format -> the module that writes it, loaded when it is asked for
_MODULES = {
    "text": "card",
    "json": "document",
    "junit": "junit",
    "gradescope": "gradescope",
    "markdown": "markdown",
}
FORMATS = tuple(_MODULES)


@dataclass(frozen=True)
class Style:
    """How to write: the language, whether as a list of results, whether with colour."""

    lang: str
    many: bool = False
    color: bool = False
    named: bool = False  # say whose each result is, where a class has many of one exercise

    def say(self, key: str, **fields: object) -> str:
        """Return the sentence `report_<key>` in the reader's language."""
        from grader.words import Text

        return Text.of(f"report_{key}", **fields).render(self.lang)


def render(
    results: Sequence[Result], format: str, lang: str, *, many: bool = False, color: bool = False
) -> str:
    """Return the results as text that ends in one newline.

    Args:
        results: what was graded, in the order to show.
        format: one of FORMATS.
        lang: "en" or "zh".
        many: write a list even of a single result.
        color: paint the score card (see `wants_color`); the other formats have no colour.

    Raises:
        UsageError: no such format.
    """
    from grader.report.document import document

    return render_documents([document(r, lang) for r in results], format, lang, many, color)


def render_documents(
    documents: Sequence[dict[str, Any]],
    format: str,
    lang: str,
    many: bool = False,
    color: bool = False,
    named: bool = False,
) -> str:
    """Return documents that `document` made, perhaps long ago, as text in that format.

    What a document itself says stays in the language it was made in.
    """
    if format not in _MODULES:
        from grader.errors import UsageError

        raise UsageError("report_bad_format", format=format, formats=", ".join(FORMATS))
    module = importlib.import_module(f"grader.report.{_MODULES[format]}")
    style = Style(lang, many or len(documents) != 1, color, named)
    return str(module.render(documents, style)).rstrip("\n") + "\n"


def wants_color(stream: TextIO) -> bool:
    """Whether to paint what goes to `stream`: a terminal that can, and no NO_COLOR."""
    able = stream.isatty() and os.environ.get("TERM") != "dumb"
    return able and not os.environ.get("NO_COLOR")
