"""The reports: every format over many imagined results, and hostile words in each of them."""

from __future__ import annotations

import io
import itertools
import json
import re
import string
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from grader import words
from grader.errors import UsageError
from grader.report import FORMATS, card, markdown, render, render_documents, wants_color
from grader.report.document import LONGEST, SCHEMA, clean, document
from grader.verdict import Finding, Result, Verdict
from grader.words import NOTHING, Text

PASSED, FAILED, BLOCKED, UNKNOWN = Verdict
BOTH = ("redis", "rabbitmq")
START = datetime(2026, 3, 1, 9, 30, tzinfo=timezone(timedelta(hours=8)))
NASTY = (
    "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202etxt.exe\u2066 \u200b\ufeff \ud800 \x00\x08\r\v \ufffe "
    "\U000e0041 \u2028<img src=x onerror=alert(1)>|![i](http://e.vil)[l](http://e.vil) <b> "
    "``` ` www.e.vil http://e.vil a@e.vil &lt; {braces} ]]> --> \\|\n# heading\n| ok | 100/100 |"
)

languages = pytest.mark.parametrize("lang", words.LANGUAGES)


def finding(id: str, verdict: Verdict, broker: str, points: float = 5, **more: Any) -> Finding:
    """Return one criterion on one broker, with fitting words."""
    title = Text({"en": f"The task {id} works.", "zh": f"任务 {id} 能正常工作。"})
    bonus, seen = more.get("bonus", False), more.get("seen", "it returned 4")
    one = Finding(id, title, points, bonus, verdict, broker, seconds=0.25)
    observed = NOTHING if verdict is PASSED else Text.plain(seen)
    if verdict is not FAILED:
        return replace(one, verdict=verdict, observed=observed)
    expected = Text({"en": "add(1, 2) returns 3", "zh": "add(1, 2) 返回 3"})
    hint = Text({"en": "What is 1 + 2?", "zh": "1 + 2 等于几？"})
    return replace(one, verdict=verdict, expected=expected, observed=observed, hint=hint)


def both(id: str, redis: Verdict, rabbitmq: Verdict, **more: Any) -> list[Finding]:
    """Return a criterion's findings on two brokers, half of its points each."""
    return [finding(id, redis, "redis", **more), finding(id, rabbitmq, "rabbitmq", **more)]


def result(*findings: Finding, **more: Any) -> Result:
    """Return a result with these findings."""
    known: dict[str, Any] = {
        "exercise": "1_2",
        "submission": "work/ana",
        "brokers": tuple(dict.fromkeys(f.broker for f in findings)),
        "seed": 42,
        "isolation": Text.plain("bubblewrap"),
        "started_at": START,
        "seconds": 1.5,
    }
    return Result(**known | more, findings=findings)


def imagined() -> Iterator[Result]:
    """Yield a result for every mix of verdicts, and the odd ones."""
    for first, second in itertools.product(Verdict, repeat=2):
        for points in (5, 2.5, 33.33):
            trig = finding("trig", second, "redis", points, bonus=True)
            yield result(finding("add", first, "redis", points), trig)
        trigs = both("trig", second, first, bonus=True)
        yield result(*both("add", first, second), *trigs, brokers_not_run=("rabbitmq",))
    yield result(note=Text.plain("There is no calculator.py."), seconds=0.0004)
    yield result(finding("add", BLOCKED, "redis"), note=Text.plain(NASTY))
    yield result(*both("add", FAILED, FAILED, seen=NASTY), submission=NASTY)
    yield result(finding("add", FAILED, "redis", seen="很长 " * 9999), started_at=datetime.now())


RESULTS = list(imagined())
HOSTILE = RESULTS[-3:-1]
FULL = result(*both("add", PASSED, PASSED, points=50), *both("trig", PASSED, PASSED, bonus=True))


def validator() -> Any:
    """Return the published schema's validator."""
    from jsonschema import Draft202012Validator

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def loaded(*results: Result, format: str = "json", lang: str = "en", **more: Any) -> Any:
    """Return what a JSON format holds."""
    return json.loads(render(results, format, lang, **more))


# JSON


@languages
def test_json_keeps_to_the_schema(lang: str) -> None:
    """Every imagined result, alone and in a list, is what the published schema describes."""
    check = validator()

    for one in RESULTS:
        check.validate(loaded(one, lang=lang))

    check.validate(loaded(*RESULTS, lang=lang))
    check.validate(loaded(lang=lang))


@pytest.mark.parametrize(
    "change",
    [{"more": 1}, {"status": "fine"}, {"format": 2}, {"started_at": "2026-03-01T09:30:00"}],
)
def test_the_schema_is_strict(change: dict[str, Any]) -> None:
    """A key too many and a wrong value are refused."""
    assert not validator().is_valid(loaded(FULL) | change)


@pytest.mark.parametrize("key", sorted(document(FULL, "en")))
def test_the_schema_misses_nothing(key: str) -> None:
    """No key of a result may be left out."""
    whole = loaded(FULL)
    del whole[key]

    assert not validator().is_valid(whole)


def test_json_says_what_happened() -> None:
    """One entry a criterion and broker, half of the points each, whole numbers without a point."""
    text = render([result(*both("add", PASSED, FAILED, points=5.0))], "json", "en")

    first, second = json.loads(text)["criteria"]
    assert (first["points"], first["max_points"], first["expected"]) == (5, 5, None)
    assert (second["points"], second["observed"]) == (0, "it returned 4")
    assert '"score": 5,' in text and '"max_score": 10,' in text and '"points": 5,' in text
    assert json.loads(text)["started_at"] == "2026-03-01T09:30:00.000+08:00"


def test_one_result_can_be_written_as_a_list() -> None:
    """One result is an object, several are a list, and `many` makes a list of one."""
    assert loaded(FULL)["score"] == 100
    assert loaded(FULL, many=True) == {"format": 1, "results": [loaded(FULL)]}
    assert len(loaded(FULL, FULL)["results"]) == 2


# Words of strangers


@languages
@pytest.mark.parametrize("format", FORMATS)
def test_hostile_words_are_made_visible(format: str, lang: str) -> None:
    """No format lets a control, bidirectional or invisible character or a surrogate through."""
    text = render(HOSTILE, format, lang)

    assert {c for c in text if not c.isprintable()} <= {"\n"}
    assert "\\x1b[2J" in text.replace("\\\\", "\\")
    assert "\\u202e" in text.replace("\\\\", "\\")
    text.encode()


def test_every_character_can_be_shown_after_cleaning() -> None:
    """Cleaning leaves only line feeds and characters that XML and UTF-8 can hold."""
    every = clean("-".join(map(chr, range(sys.maxunicode + 1))), limit=2**25)

    assert {c for c in every if not c.isprintable()} == {"\n"}
    assert ET.fromstring(f"<a>{re.sub('[<&]', '', every)}</a>").text


def test_long_words_are_cut() -> None:
    """A megabyte of output leaves its beginning and its end."""
    text = clean("a" + "\x1b" * 2**20 + "z")

    assert len(text) <= LONGEST and text[0] == "a" and text[-1] == "z"


def test_a_folder_name_cannot_forge_a_row() -> None:
    """Line feeds in the words of a stranger never begin a line of the score card."""
    lines = render(HOSTILE, "text", "en").splitlines()

    assert not [line for line in lines if line.startswith(("| ok", "# heading"))]


# The score card


@languages
def test_the_card_fits_and_its_columns_meet(lang: str) -> None:
    """No line is wider than 80 columns, and all titles begin in the same one."""
    from rich.cells import cell_len

    for one in RESULTS:
        lines = render([one], "text", lang).splitlines()

        titles = [line for line in lines if re.search(r"/\d+(\.\d+)?  (The task|任务)", line)]
        assert max(map(cell_len, lines)) <= 80
        assert len({cell_len(re.split("The task|任务", line)[0]) for line in titles}) <= 1


@pytest.mark.parametrize("one", [FULL, *RESULTS[:8], *HOSTILE])
def test_colour_is_only_paint(one: Result) -> None:
    """The painted card without its paint is the plain card, and the plain one has no escape."""
    plain, painted = (render([one], "text", "en", color=c) for c in (False, True))

    assert "\x1b" not in plain and "\x1b" in painted
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == plain


def test_what_brokers_share_is_said_once() -> None:
    """Equal words come once without a broker's name, differing ones with it."""
    alike = render([result(*both("add", FAILED, FAILED))], "text", "en")
    first, _ = both("add", FAILED, FAILED)
    differ = result(first, finding("add", FAILED, "rabbitmq", seen="no answer"))

    assert alike.count("it returned 4") == 1 and "redis: " not in alike
    text = render([differ], "text", "en")
    assert "seen      redis: it returned 4\n              rabbitmq: no answer\n" in text
    assert text.count("What is 1 + 2?") == 1


def test_a_blocked_row_is_explained_in_one_line() -> None:
    """What a blocked criterion waits for is one line, without expectation and hint."""
    text = render([result(*both("add", BLOCKED, BLOCKED, seen="needs sub first"))], "text", "en")

    assert "\n    blocked  needs sub first\n" in text
    assert "hint" not in text and "expected" not in text


@languages
def test_the_labs_fault_costs_nothing(lang: str) -> None:
    """What was not judged shows no zero, says whose fault it is and that it isn't lost."""
    text = render([result(*both("add", PASSED, UNKNOWN))], "text", lang)

    assert "5+?/10" in text and "0/10" not in text
    assert Text.of("report_lab_fault").render(lang) in text
    assert Text.of("report_open_why", points=5).render(lang)[:20] in text


@languages
def test_a_note_replaces_the_rows(lang: str) -> None:
    """A submission that can't be graded says why, once."""
    rows = both("add", BLOCKED, BLOCKED)
    text = render([result(*rows, note=Text.plain("no app there"))], "text", lang)

    assert text.count("no app there") == 1
    assert Text.of("report_blocked").render(lang) not in text


@pytest.mark.parametrize(
    ("platform", "tool", "command"),
    [
        ("darwin", None, "brew install rabbitmq"),
        ("linux", "/usr/bin/apt", "apt install rabbitmq-server"),
        ("linux", None, "set LAB_RABBITMQ_URL"),
    ],
)
def test_the_footer_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, platform: str, tool: str | None, command: str
) -> None:
    """The footer holds the scores, the seed's option and the command for a missing broker."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("shutil.which", lambda name: tool)
    one = result(finding("add", PASSED, "redis"), brokers_not_run=("rabbitmq",))
    footer = " ".join(render([one], "text", "en").rpartition("---\n")[2].split())

    assert "score 5/5" in footer and "--seed 42" in footer and command in footer
    assert "isolation bubblewrap" in footer and "bonus" not in footer


@languages
def test_several_cards_end_in_a_summary(lang: str) -> None:
    """After several cards, one line for each result says how it went."""
    last = render([FULL, *RESULTS[:2]], "text", lang).splitlines()[-3:]

    assert [line.split()[0] for line in last] == ["1_2"] * 3
    assert "100/100" in last[0] and "10/10" in last[0]


@pytest.mark.parametrize("columns", [10, 33, 80])
def test_wrapping_loses_nothing(columns: int) -> None:
    """Wrapped lines fit and still hold every character; closing marks do not begin a line."""
    from rich.cells import cell_len

    text = "运行 add(1, 2)，结果应当是（精确的）3。See the worker's log; " + "x" * 150 + " 完。" * 9
    lines = card.wrap(text, columns)

    assert max(map(cell_len, lines)) <= columns
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert not [line for line in lines if line[0] in "，。）；"]


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_result_is_written_without_heavy_imports(format: str) -> None:
    """Writing a card or JSON loads neither rich nor celery nor jsonschema."""
    program = f"""
import sys
from grader.report import render
from grader.verdict import Result
render([Result("1_2", "work", ("redis",), 1, ())], {format!r}, "zh")
print({{"rich", "celery", "jsonschema", "pydantic"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("terminal", "variables", "wanted"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], wanted: bool
) -> None:
    """A pipe, NO_COLOR and a dumb terminal get no colour."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)

    assert wants_color(stream) is wanted


# JUnit


@pytest.mark.parametrize(
    ("verdict", "bonus", "tag"),
    [
        (PASSED, False, None),
        (FAILED, False, "failure"),
        (BLOCKED, False, "failure"),
        (UNKNOWN, False, "error"),
        (FAILED, True, "skipped"),
        (BLOCKED, True, "skipped"),
        (UNKNOWN, True, "error"),
    ],
)
def test_junit_says_each_verdict(verdict: Verdict, bonus: bool, tag: str | None) -> None:
    """A verdict becomes the element that a build server understands, of the verdict's type."""
    one = result(finding("add", verdict, "redis", bonus=bonus))
    case = ET.fromstring(render([one], "junit", "en")).find("testsuite/testcase")

    problems = [child for child in case if child.tag != "system-out"]
    assert [child.tag for child in problems] == ([tag] if tag else [])
    assert all(child.get("type") == verdict for child in problems)


@languages
def test_junit_counts_what_it_holds(lang: str) -> None:
    """All results together are valid XML whose counts are right, a suite a broker."""
    root = ET.fromstring(render(RESULTS, "junit", lang))

    for element in (root, *root.iter("testsuite")):
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(element.get(attribute)) == len(list(element.iter(tag)))
    names = {suite.get("name") for suite in root}
    assert names == {"1_2.redis", "1_2.rabbitmq", "1_2"}


# Gradescope


def test_gradescope_adds_bonus_as_extra_credit() -> None:
    """The score is core and bonus, a bonus test is out of nothing, and all text is plain text."""
    one = result(finding("add", PASSED, "redis"), finding("trig", PASSED, "redis", bonus=True))
    whole = loaded(one, format="gradescope")

    assert whole["score"] == 10 == sum(test["score"] for test in whole["tests"])
    assert [test["max_score"] for test in whole["tests"]] == [5, 0]
    assert {whole["output_format"], *(t["output_format"] for t in whole["tests"])} == {"text"}
    assert {test["visibility"] for test in whole["tests"]} == {"visible"}


def test_gradescope_gets_no_score_that_the_lab_does_not_stand_for() -> None:
    """With one criterion not judged there is no score at all, and the output says why."""
    text = render([result(*both("add", PASSED, UNKNOWN))], "gradescope", "en")

    assert '"score":' not in json.dumps(json.loads(text)["tests"])
    assert "score" not in json.loads(text)
    assert "the lab failed" in json.loads(text)["output"]


# Markdown


@languages
def test_markdown_holds_nothing_of_a_stranger_but_text(lang: str) -> None:
    """Hostile words make no HTML, link, image, heading or further cell."""
    from markdown_it import MarkdownIt

    text = render([*RESULTS, *HOSTILE], "markdown", lang)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)

    every = [t for token in tokens for t in (token, *(token.children or []))]
    active = {"html_inline", "html_block", "link_open", "image", "fence"}
    assert not active & {t.type for t in every}
    assert "heading" not in {t.content.strip() for t in tokens}
    plain = "".join(t.content for t in every if t.type == "text")
    assert "e.vil" not in plain and "<" not in plain


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "＝1", "`=1`"])
def test_a_cell_is_no_formula(text: str, foreign: bool) -> None:
    """A table's cell never begins with what a spreadsheet would calculate."""
    shown = markdown.cell(text, foreign).replace("\\", "").strip("` ")

    assert shown.startswith("'")


@pytest.mark.parametrize("text", ["a|b", "a\\|b", "`a|b`", "a\\\\|b"])
def test_a_cell_stays_one_cell(text: str) -> None:
    """A bar in a cell does not begin another one."""
    from markdown_it import MarkdownIt

    for foreign in (True, False):
        table = f"| x | y |\n| --- | --- |\n| {markdown.cell(text, foreign)} | last |\n"
        cells = MarkdownIt("commonmark").enable("table").parse(table)

        assert [t.content for t in cells if t.type == "inline"][3:] == ["last"]


# All formats


@languages
@pytest.mark.parametrize("format", FORMATS)
def test_a_stored_document_is_written_alike(format: str, lang: str) -> None:
    """A document that went through JSON gives the same text as the result itself."""
    stored = [json.loads(json.dumps(document(one, lang))) for one in RESULTS]

    assert render_documents(stored, format, lang) == render(RESULTS, format, lang)


def test_an_unknown_format_is_explained() -> None:
    """A format that does not exist is answered with those that do."""
    with pytest.raises(UsageError, match=r"no format pdf.*text, json, junit"):
        render([FULL], "pdf", "en")


# Sentences of the whole grader

SENTENCES = sorted((Path(words.__file__).parent / "sentences").glob("*.toml"))


@pytest.mark.parametrize("file", SENTENCES, ids=lambda file: file.name)
def test_every_sentence_is_in_both_languages(file: Path) -> None:
    """Each sentence has both languages and nothing else, with the same placeholders in both."""
    for key, pair in tomllib.loads(file.read_text(encoding="utf-8")).items():
        named = [{f for _, f, _, _ in string.Formatter().parse(pair[lang]) if f} for lang in pair]

        assert sorted(pair) == ["en", "zh"] and all(pair.values()), key
        assert named[0] == named[1], key


def test_no_sentence_is_written_twice() -> None:
    """A key is defined in one file only: a second one would silently replace the first."""
    keys = [k for file in SENTENCES for k in tomllib.loads(file.read_text(encoding="utf-8"))]

    assert sorted(keys) == sorted(set(keys))
