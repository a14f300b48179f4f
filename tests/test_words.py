"""grader/words.py: sentences are rendered in either language, and every use of one fits it."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator

import pytest

from grader import errors
from grader.errors import BadSubmission, LabError, LabFault, SubmissionFault, UsageError
from grader.exercise import ROOT
from grader.words import LANGUAGES, NOTHING, Text, catalogue

FILES = sorted((ROOT / "grader").rglob("*.py"))
RAISED = {name for name, value in vars(errors).items() if isinstance(value, type)} | {"of"}
# Keys that are put together where they are used: the verdicts, a heading's name, a report's word.
MADE = (
    "progress_",
    "label_",
    "report_",
    "doctor_",
    "isolation_",
    "containers_health_",
    "site_",
    "hint_",
    "next_",
    "story_",
    "explain_",
    "watch_",
)


def calls() -> Iterator[tuple[str, str, set[str] | None]]:
    """Yield (place, key, names of the fields) where a sentence is used; None for `**fields`."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            key = node.args[0]
            if name in RAISED and isinstance(key, ast.Constant):
                fields = {keyword.arg for keyword in node.keywords}
                place = f"{file.name}:{node.lineno}"
                yield place, str(key.value), None if None in fields else fields


def placeholders(key: str) -> set[str]:
    parsed = string.Formatter().parse(catalogue()[key]["en"])
    return {name for _, name, _, _ in parsed if name is not None}


def test_every_sentence_that_is_used_fits():
    """Each use names a sentence that is there, and gives it what its placeholders stand for."""
    for place, key, fields in calls():
        assert key in catalogue(), place
        assert fields is None or placeholders(key) <= fields, place


def test_every_sentence_is_used():
    """No sentence is left over: each key stands in the grader's code, or is put together there."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in FILES)

    unused = [key for key in catalogue() if f'"{key}"' not in text and not key.startswith(MADE)]
    assert not unused


def test_a_text_is_rendered_in_either_language():
    """A field that is a text itself is rendered in the same language, any other by str()."""
    inner = Text({"en": "one", "zh": "一"})
    outer = Text({"en": "{a} and {b}", "zh": "{b}、{a}"}, {"a": inner, "b": 2})

    assert [outer.render(lang) for lang in LANGUAGES] == ["one and 2", "2、一"]


def test_a_missing_translation_is_english():
    """Without a translation, or with an empty one, the English sentence serves."""
    assert Text({"en": "only {a}"}, {"a": 1}).render("zh") == "only 1"
    assert Text({"en": "only", "zh": ""}).render("zh") == "only"


@pytest.mark.parametrize("text", ["{", "{}", "{0}", "{a.b[c]!r:>9}", "}", "{{x}}", "%s", "\\n", ""])
def test_a_plain_text_stays_as_it_is(text):
    """Words that are not the lab's are shown as they are, whatever they hold."""
    inside = Text({"en": "[{a}]"}, {"a": text})

    assert Text.plain(text).render("zh") == text
    assert inside.render("en") == f"[{text}]"


def test_an_empty_text_is_false():
    """NOTHING says nothing; a sentence is true even where its words are empty."""
    assert not NOTHING and NOTHING.render("zh") == ""
    assert Text.of("blocked_by", id="x")


def test_an_unknown_sentence_is_the_graders_own_mistake():
    """A key that is not there is a KeyError at once, not when a report is written."""
    with pytest.raises(KeyError):
        Text.of("no_such_sentence")
    with pytest.raises(KeyError):
        LabFault("no_such_sentence")


@pytest.mark.parametrize(
    ("kind", "status"), [(UsageError, 2), (BadSubmission, 2), (LabFault, 3), (SubmissionFault, 1)]
)
def test_an_error_carries_its_sentence(kind, status):
    """str() of an error is English, its text has both languages, its class the exit status."""
    error = kind("submission_missing", path="work")

    assert isinstance(error, LabError) and error.exit_status == status
    assert str(error) == error.text.render("en") and "work" in str(error)
    assert error.text.render("zh") != str(error)


def test_every_error_has_a_place_in_the_tree():
    """The tree in the docstring names every class, and only those."""
    drawn = {
        line.split("──")[-1].split()[0]
        for line in (errors.__doc__ or "").splitlines()
        if "─" in line
    }

    assert drawn | {"LabError"} == {name for name in RAISED if name.isidentifier()} - {"of", "Text"}
