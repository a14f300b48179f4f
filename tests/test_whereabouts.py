"""`lab`, `lab next` and `lab progress`: where the student stands and what to type next."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from grader.cli import group
from grader.cli.whereabouts import next_command, progress_command
from grader.exercise import folders
from grader.plan import State, next_up, state_of
from grader.progress import Mark, Standing
from grader.report import Style
from grader.report.card import width
from grader.report.sheet import page


def call(command, *arguments):
    """Call a command and return what it printed."""
    run = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return run.output


def standing(score, bonus=0, at="2026-01-01T00:00:00+00:00"):
    """Return a standing with that score as best and last."""
    mark = Mark(score, 100, bonus, 40, at)
    return Standing(mark, mark)


EVERY = [SimpleNamespace(id=id, points=lambda bonus=False: 40) for id in ("a", "b", "c")]
LATER = "2026-02-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("standings", "wanted"),
    [
        ({}, "a"),
        ({"a": standing(100)}, "b"),
        ({"a": standing(50), "b": standing(50, at=LATER)}, "b"),
        ({"b": standing(50)}, "b"),
        ({"a": standing(100), "b": standing(100, 40), "c": standing(100)}, "a"),
        ({id: standing(100, 40) for id in "abc"}, None),
        ({"gone": standing(10)}, "a"),
    ],
)
def test_what_comes_next(standings, wanted):
    """What was begun last comes first, then what is new, then bonus points, then nothing."""
    found = next_up(EVERY, standings)

    assert (found.id if found else None) == wanted


def test_states():
    """The core decides how far an exercise is; bonus points make the difference at the end."""
    found = [state_of(EVERY[0], s) for s in (Standing(), standing(1), standing(100))]

    assert [*found, state_of(EVERY[0], standing(100, 40))] == list(State)


def test_lab_alone_says_what_to_type(student, keep):
    """Without a word `lab` says where one is, what to type, and how to get the help."""
    first = call(group)
    keep("powers")
    second = call(group)

    assert "1_1" in first and "grade 1_1" in first and "--help" in first
    assert "You are at 1_2" in second and "hint 1_2" in second and "explain 1_2" in second
    assert call(next_command) in second


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_table_fits_a_narrow_screen(student, keep, lang):
    """Every exercise is a line of at most 79 columns, in words, without colour or drawing."""
    keep("powers", verdict=None)
    keep()

    lines = call(progress_command, "--lang", lang).splitlines()

    assert max(map(width, lines)) <= 79
    assert len([line for line in lines if re.match(r"\w+_\d", line)]) == len(folders())
    assert "\x1b" not in "".join(lines)
    assert re.search(r"1_2 .*100/100", "\n".join(lines))


def test_a_broken_file_is_told(student):
    """A progress file that can't be read is told, and everything counts as new."""
    student.mkdir()
    (student / "progress.json").write_text("{")

    for command in (progress_command, next_command, group):
        assert "can't be read" in " ".join(call(command).split())


class Tags(HTMLParser):
    """Notes the tags and checks that they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_stands_alone(student, keep, tmp_path, lang):
    """The page is whole: its language, headings with a scope, no script, nothing from elsewhere."""
    keep("powers")
    file = tmp_path / "progress.html"

    call(progress_command, "--html", str(file), "--lang", lang)

    text = file.read_text(encoding="utf-8")
    tags = Tags(text).seen
    assert ("html", {"lang": "zh-CN" if lang == "zh" else "en"}) in tags
    assert {"title", "h1", "main", "caption"} <= {tag for tag, _ in tags}
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in tags}
    assert not re.search(r"(src|href|url)\s*[=(]", text)


def test_strange_words_are_escaped():
    """Whatever stands in a cell is text, not markup."""
    text = page("<b>", "&", [["<i>"], ["<script>"]], [0.5], Style("en"))

    assert "<script>" not in text and "&lt;script&gt;" in text and "<i>&" not in text


def test_a_page_that_cannot_be_written_is_told(copy, tmp_path):
    """A folder that is not there, or in the way, is exit status 2 with a sentence."""
    for path in (tmp_path / "no" / "p.html", tmp_path):
        run = copy.lab("progress", "--html", path)
        assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr
    assert not (tmp_path / "no").exists()


def test_without_exercises_it_says_so(monkeypatch, tmp_path, student):
    """An empty exercises folder is told."""
    monkeypatch.setattr("grader.exercise.EXERCISES", tmp_path)

    assert "no exercises here" in call(next_command)
