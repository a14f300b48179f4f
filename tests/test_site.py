"""`lab report`: the pages and files that come of a grade book."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from PIL import Image

from grader.classroom.book import Book
from grader.classroom.evidence import pack
from grader.classroom.marks import write_feedback, write_tables
from grader.classroom.overview import difficulties, first_passes, seats
from grader.classroom.pages import TEMPLATES
from grader.classroom.roster import Person, Roster
from grader.classroom.site import Site
from grader.classroom.tables import Attempt, Override
from grader.exercise import find
from grader.report.timeline import timeline
from grader.verdict import Finding, Result, Verdict
from grader.words import Text, catalogue

PASSED, FAILED, BLOCKED, UNKNOWN = Verdict
EXERCISE = find("1_2")
CORE = [c for c in EXERCISE.criteria if not c.bonus]
EVIL = "<script>alert(1)</script>"
SEED = 987654
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)
HISTORY = {
    "calls": [
        {"task": f"calculator.{EVIL}", "sent_at": 100.0, "reply": None},
        {
            "task": "calculator.add",
            "sent_at": 101.0,
            "reply": {"state": "SUCCESS", "raw": '{"date_done": "1970-01-01T00:01:42+00:00"}'},
        },
    ],
    "requests": [{"service": "flaky", "at": 101.5, "began": 5.0, "ended": 5.5, "answered": 503}],
    "faults": [{"kind": "freeze", "at": 101.2}],
}


@pytest.fixture
def book(tmp_path):
    """A grade book to fill."""
    with Book(tmp_path / "grades.sqlite", new=True) as book:
        yield book


@pytest.fixture
def put(book, tmp_path):
    """Add an attempt: the first criterion failed with hostile words, or all passed."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1_2-redis.json").write_text(json.dumps(HISTORY))

    def putting(student, verdict=PASSED, work="w", at=NOON, turn=0, late=False):
        first = {c.id: verdict for c in CORE[:1]}
        findings = tuple(
            Finding(
                c.id,
                Text.plain(c.title["zh"]),
                c.points,
                c.bonus,
                first.get(c.id, PASSED),
                "redis",
                **(words(verdict) if c.id in first else {}),
            )
            for c in CORE
        )
        result = Result("1_2", "/home/teacher/secret", ("redis",), SEED, findings, started_at=at)
        row = Attempt(
            student=student,
            exercise="1_2",
            work=work,
            checks="c",
            environment="e",
            brokers="redis",
            turn=turn,
            place="/home/teacher/secret",
            submitted_at=at,
            late=late,
            started_at=at,
            seconds=1.0,
            seed=SEED,
            status=result.status.value,
            score=result.score,
            max_score=100,
            bonus=0,
            max_bonus=40,
            lab_fault=verdict is UNKNOWN,
            unsafe=False,
            verdicts={f"{f.id}@redis": f.verdict.value for f in findings},
            versions={},
            evidence=pack(result, tmp_path / "runs"),
        )
        book.add(row)

    return putting


def words(verdict):
    """The words of a finding that is not passed."""
    if verdict is PASSED:
        return {}
    return {
        "expected": Text.plain("a sum"),
        "observed": Text.plain(f"=cmd() {EVIL} \x1b[31m"),
        "hint": Text.plain("What is a sum?"),
    }


@pytest.fixture
def written(book, tmp_path):
    """Write the report and return {path: text} of every file."""

    def writing(lang="en"):
        to, everybody = tmp_path / f"report-{lang}", seats(book)
        paths = [*Site(book, everybody, [EXERCISE], lang, to).write()]
        paths += write_tables(everybody, [EXERCISE], to)
        paths += write_feedback(book, everybody, [EXERCISE], lang, to / "feedback")
        return {str(p.relative_to(to)): p.read_text(encoding="utf-8") for p in paths}

    return writing


class Page(HTMLParser):
    """Reads a page: its tags, links, and whether each tag is closed in order."""

    VOID = ("meta", "br", "path")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("href", "src", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_page_is_sound_and_stands_alone(put, written, lang):
    """Tags are closed, nothing comes from elsewhere, no hostile word becomes markup."""
    put("ann", FAILED)
    put(EVIL)

    pages = {name: Page(text) for name, text in written(lang).items() if name.endswith(".html")}

    assert len(pages) == 4
    for page in pages.values():
        assert not {"script", "img", "iframe", "form"} & set(page.tags)
        assert all(link in {*pages, "index.html"} for link in page.links)
    assert ("班级" in pages["index.html"].text) is (lang == "zh")


def test_a_students_page_tells_nothing_of_others(put, written):
    """It has the evidence; no seed, no place on the disk, nobody else's name, no escape."""
    put("ann", FAILED)
    put("bob", FAILED)

    files = written()

    for name in ("students/ann.html", "feedback/markdown/ann.md", "feedback/gradescope/ann.json"):
        text = files[name]
        assert "What is a sum?" in text
        assert str(SEED) not in text
        assert "/home/teacher" not in text
        assert "bob" not in text
        assert "\x1b" not in text


def test_the_matrix_says_who_stands_where(book, put, written):
    """Scores, late work, verdicts that differ, lab faults and overrides are all to be seen."""
    put("ann", FAILED, late=True)
    put("bob", PASSED)
    put("bob", FAILED, turn=1)
    put("cem", UNKNOWN)
    put("dan", PASSED)
    at = {"by": "me", "at": NOON}
    book.add(Override(student="dan", exercise="1_2", score=40.5, reason="by hand", **at))

    text = Page(written()["index.html"]).text

    missing = 100 - CORE[0].points
    for word in (str(missing), "late", "1 of 2 gradings agree", "?", "40.5", "set by hand"):
        assert word in text


def test_a_group_shares_its_newest_work(book, put):
    """Members without work of their own have their group's, and the newest of it counts."""
    people = [Person(key, key.title(), "red", {}) for key in ("ann", "bob", "cem")]
    book.enrol(Roster([*people, Person("dan", "Dan", "", {})]))
    put("ann", FAILED)
    put("bob", PASSED)

    found = {seat.key: seat.standings for seat in seats(book)}

    assert [found[key]["1_2"].score for key in ("ann", "bob", "cem")] == [100, 100, 100]
    assert found["dan"] == {}


def test_difficulty_counts_everybodys_newest_attempt(book, put):
    """A criterion is passed by those whose newest attempt passed it, blocked ones did not."""
    put("ann", FAILED)
    put("ann", PASSED, work="better")
    put("bob", BLOCKED)
    put("cem", UNKNOWN)

    (first, *others) = difficulties(book.standings())

    assert (first.id, first.passed, first.tried) == (CORE[0].id, 1, 2)
    assert {(row.passed, row.tried) for row in others} == {(2, 2)}


def test_the_time_to_the_first_pass(book, put):
    """It is counted in different works and in hours between hand-ins; who never passed is not."""
    put("ann", FAILED, work="1")
    put("ann", FAILED, work="1", turn=1)
    put("ann", PASSED, work="2", at=NOON + timedelta(hours=3))
    put("ann", PASSED, work="3", at=NOON + timedelta(hours=9))
    put("bob", FAILED)

    assert first_passes(book, book.graded()) == [(2, 3.0)]


def test_tables_for_canvas_and_moodle(book, put, written):
    """The platform's own columns are kept, an empty cell changes no grade, no cell is a formula."""
    row = {"Student": "Doe, Jane", "ID": "1234", "SIS Login ID": "jdoe", "Section": "A"}
    book.enrol(Roster([Person("jdoe", "Doe, Jane", "", row), Person("lee", "Ann Lee", "", {})]))
    put("jdoe")
    put("=evil()")

    files = written()

    canvas = list(csv.DictReader(io.StringIO(files["canvas.csv"])))
    (column,) = set(canvas[0]) - {"Student", "ID", "SIS User ID", "SIS Login ID", "Section"}
    assert canvas[0]["Student"].strip() == "Points Possible"
    assert canvas[0][column] == "100"
    by_login = {r["SIS Login ID"]: r for r in canvas[1:]}
    assert (by_login["jdoe"]["ID"], by_login["jdoe"][column]) == ("1234", "100")
    assert by_login["lee"][column] == ""
    assert "'=evil()" in by_login
    moodle = {r["Username"]: r for r in csv.DictReader(io.StringIO(files["moodle.csv"]))}
    assert (moodle["lee"]["First name"], moodle["lee"]["Last name"]) == ("Ann", "Lee")
    assert moodle["jdoe"]["1_2"] == "100"


def test_files_for_other_programs(put, written):
    """JUnit XML can be read, and Gradescope's file has the score."""
    put("ann", FAILED)

    files = written()

    suites = ET.fromstring(files["feedback/results.xml"])
    assert {s.get("name") for s in suites} == {"ann.1_2.redis"}
    assert {c.get("classname") for c in suites.iter("testcase")} == {"ann.1_2.redis"}
    document = json.loads(files["feedback/gradescope/ann.json"])
    assert document["score"] == 100 - CORE[0].points


def test_feedback_says_what_was_set_by_hand(book, put, written):
    """The score that counts stands where a student looks, with its reason."""
    put("ann", FAILED)
    row = {"student": "ann", "exercise": "1_2", "by": "me", "at": NOON}
    book.add(Override(score=80, reason="shown in class", **row))

    files = written()

    markdown = files["feedback/markdown/ann.md"]
    assert "80/100" in markdown
    assert "shown in class" in markdown
    assert f"{100 - CORE[0].points}/100" not in markdown.splitlines()[0]
    gradescope = json.loads(files["feedback/gradescope/ann.json"])
    assert gradescope["score"] == 80
    assert "80/100" in gradescope["output"]


def test_names_for_moodle(book, put, written):
    """A name with its last part first is told apart."""
    book.enrol(Roster([Person("jdoe", "Doe, Jane", "", {})]))
    put("jdoe")

    (row,) = csv.DictReader(io.StringIO(written()["moodle.csv"]))

    assert (row["First name"], row["Last name"]) == ("Jane", "Doe")


def test_names_become_different_files(book, put, written):
    """Names that no file can have, and names that look alike, each get a page of their own."""
    names = ["../../etc/passwd", "..", "a/b", "a_b", "", "学生"]
    for name in names:
        put(name)

    pages = [name for name in written() if name.startswith("students/")]

    assert len(pages) == len(names)
    assert all(name.count("/") == 1 and not name.startswith("students/.") for name in pages)


def test_the_timeline_draws_what_happened():
    """Calls by task, requests by service and faults are there, and hostile names are escaped."""
    picture = timeline(HISTORY, "what happened")

    page = Page(picture)
    assert "script" not in page.tags
    assert "HTTP flaky" in page.text
    assert "freeze" in page.text
    assert picture.count('class="good"') == 1
    assert timeline({"calls": []}, "nothing") == ""


@pytest.mark.parametrize("raw", ["", "x", '{"date_done": "99999-01-01"}', '{"date_done": "'])
def test_a_result_that_lies_about_its_time_is_drawn(raw):
    """A reply whose time makes no sense is drawn where it was sent."""
    call = {"task": "t", "sent_at": 5.0, "reply": {"state": "FAILURE", "raw": raw}}

    assert 'class="bad"' in timeline({"calls": [call]}, "x")


def test_every_sentence_of_the_pages_is_used():
    """Each sentence of the pages stands in a template, or in what fills it; none is missing."""
    sources = [*TEMPLATES.glob("*.html"), TEMPLATES.parent / "site.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)

    used = set(re.findall(r"say\(\s*\"(\w+)\"", text)) | {"bonus", "criterion"}

    assert used == {key.removeprefix("site_") for key in catalogue() if key.startswith("site_")}


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# The page says itself how wide it is: whatever is wider than the window has to scroll sideways.
WIDTH = "<script>document.title=document.documentElement.scrollWidth+'/'+innerWidth</script>"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [1200, 420])
def test_a_browser_shows_every_page_in_its_window(put, written, tmp_path, width):
    """In a real browser no page is wider than a large or a small window, and each paints text."""
    put("ann", FAILED)
    pages = {name: text for name, text in written().items() if name.endswith(".html")}

    for name, text in pages.items():
        measured = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", f"{WIDTH}</body>")
        (tmp_path / "page.html").write_text(measured, encoding="utf-8")
        dom = browse(tmp_path / "page.html", width, "--dump-dom").decode()
        wide, window = map(int, re.search(r"<title>(\d+)/(\d+)</title>", dom).groups())
        assert wide <= window, name
        shot = tmp_path / f"{name.replace('/', '-')}-{width}.png"
        browse(tmp_path / f"report-en/{name}", width, f"--screenshot={shot}")
        with Image.open(shot) as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 20, name


def browse(page, width, what):
    """Open a page in Chromium, without a window, and return what it prints."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command = [CHROMIUM, *flags, f"--user-data-dir={page.parent}/profile", what]
    command += [f"--window-size={width},900", page.as_uri()]
    run = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return run.stdout
