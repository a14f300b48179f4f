"""What a result looks like in every format: an attack may speak only plain, visible text there."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from grader.report import FORMATS, render
from grader.verdict import Result

LONGEST = 400_000
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
# What a program that shows Markdown would act upon: markup, a link, an image.
ACTIVE = re.compile(r"<[a-z/!]|\]\(|(?<!\\)!\[", re.I)
FORMULA = re.compile(r"(?:^|\|)\s*[=+@]", re.M)


def report_problems(result: Result) -> Iterator[str]:
    """Yield what a reader of one of the formats would be hit by, a sentence each."""
    for format in FORMATS:
        try:
            text = render([result], format, "en", color=False)
        except Exception as error:
            yield f"the {format} report can't be written: {error!r}"
            continue
        yield from (f"the {format} report {problem}" for problem in _problems(format, text))


def _problems(format: str, text: str) -> Iterator[str]:
    if hidden := sorted({c for c in text if not c.isprintable() and c != "\n"}):
        yield f"holds invisible characters: {hidden!r}"
    if len(text) > LONGEST:
        yield f"is {len(text)} characters long"
    if format in ("json", "gradescope"):
        json.loads(text)
    if format == "junit":
        ElementTree.fromstring(text)
    if format == "markdown":
        bare = CODE.sub("", text)
        for pattern, what in ((ACTIVE, "markup"), (FORMULA, "a formula")):
            if found := pattern.search(bare):
                yield f"holds {what}: {bare[max(0, found.start() - 30) : found.end() + 30]!r}"
