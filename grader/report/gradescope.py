"""Gradescope's results.json, as its autograder specification describes it.

https://gradescope-autograders.readthedocs.io/en/latest/specs/ ("Output format"). What the
specification leaves open, and what is done here:

- It says nothing of extra credit. A bonus criterion is a test with `max_score` 0 that may earn
  points, and the top-level `score`, which overrides the tests' sum, is core plus bonus. Whether a
  total above the assignment's points counts is for the assignment's own settings.
- It knows only `passed` and `failed`. A blocked criterion is `failed`; the real word is in
  `extra_data`.
- It has no word for a result that the lab could not finish. Then no `score` is written anywhere:
  a number would be taken for the student's grade. `output` says why.

Gradescope reads a top-level `output` as HTML unless told otherwise, so every format is set to text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from grader.report import Style
from grader.report.document import Document, Entry, explain, number, score, undecided


def render(documents: Sequence[Document], style: Style) -> str:
    """Return one results.json; several exercises are one assignment, their points added up."""
    known = not any(e["verdict"] == "unknown" for d in documents for e in d["criteria"])
    whole: dict[str, Any] = {
        "output": "\n".join(line for d in documents for line in _output(d, style)),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "execution_time": round(sum(d["seconds"] for d in documents)),
        "extra_data": {"lab": [_extra(document) for document in documents]},
        "tests": [_test(d, e, style, known) for d in documents for e in d["criteria"]],
    }
    if known:
        total = number(sum(d["score"] + d["bonus"] for d in documents))
        whole = {"score": total, **whole}
    return json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False)


def _output(document: Document, style: Style) -> Iterator[str]:
    total = f"{style.say('score')} {score(document, False, style)}"
    if document["max_bonus"]:
        total += f", {style.say('bonus')} {score(document, True, style)}"
    yield f"{document['exercise']}: {document['note'] or total}"
    if document["unsafe"]:
        yield style.say("unsafe")
    if missing := undecided(document["criteria"]):
        yield style.say("open_why", points=missing)
    for broker in document["brokers_not_run"]:
        yield f"{style.say('not_run')}: {style.say('not_run_plain', broker=broker)}"


def _extra(document: Document) -> dict[str, Any]:
    keys = ("exercise", "status", "score", "max_score", "bonus", "max_bonus", "broker")
    more = ("brokers_not_run", "seed", "started_at", "isolation", "unsafe", "note")
    return {key: document[key] for key in keys + more}


def _test(document: Document, entry: Entry, style: Style, known: bool) -> dict[str, Any]:
    lines = [f"{line.label}: {line.text}" for line in explain([entry], style)]
    test: dict[str, Any] = {
        "name": f"{document['exercise']} {entry['title']} ({entry['broker']})",
        "name_format": "text",
        "max_score": 0 if entry["bonus"] else entry["max_points"],
        "output": "\n".join(lines),
        "output_format": "text",
        "tags": [entry["broker"], "bonus" if entry["bonus"] else "core"],
        "visibility": "visible",
        "extra_data": {key: entry[key] for key in ("id", "verdict", "broker", "bonus")},
    }
    if known:
        test["score"] = entry["points"]
    if entry["verdict"] != "unknown":
        test["status"] = "passed" if entry["verdict"] == "passed" else "failed"
    return test
