"""grader/exercise.py: what exercise.toml may hold, and the words for what it may not."""

from __future__ import annotations

import builtins
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from grader import exercise
from grader.errors import BadExercise, UsageError
from grader.exercise import find, load, load_checks, nearest, suggestion

GOOD = """\
stars = 2
minutes = 30
module = "tiny"
brokers = ["redis", "rabbitmq"]
files = ["tiny.py"]
title = { en = "Tiny", zh = "小练习" }

[criteria.one]
points = 60
zh = "一"
hints.default = { en = "Why?", zh = "为什么？" }
hints.other = { en = "Which {{}}?", zh = "哪个 {{}}？" }

[criteria.two]
points = 40
zh = "二"
bonus = true
hints.default = { en = "How?", zh = "怎么做？" }

[words.seen]
expected = { en = "{a} and {b}", zh = "{b} 和 {a}" }
observed = { en = "nothing", zh = "没有" }
"""
CHECKS = '''
from grader.check import check

@check
def test_one(lab):
    """It is one."""

@check(after=test_one)
def test_two(lab):
    """It is two."""
'''


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write an exercise's folder among EXERCISES and return it."""
    monkeypatch.setattr(exercise, "EXERCISES", tmp_path)

    def making(text=GOOD, id="1_1", **checks):
        folder = tmp_path / id
        folder.mkdir()
        (folder / "exercise.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        for name, content in checks.items():
            (folder / f"{name}.py").write_text(content)
        return folder

    return making


# What is right


def test_a_good_file_is_read(make):
    """Every number and every text of the file is in the exercise."""
    found = load(make(test_tiny=CHECKS))

    assert (found.id, found.stars, found.minutes, found.module) == ("1_1", 2, 30, "tiny")
    assert (found.brokers, found.files) == (("redis", "rabbitmq"), ("tiny.py",))
    assert [(c.id, c.points, c.bonus) for c in found.criteria] == [
        ("one", 60, False),
        ("two", 40, True),
    ]
    assert found.criterion("one").hints["other"].render("zh") == "哪个 {}？"
    assert found.words["seen"]["expected"]["en"] == "{a} and {b}"
    assert list(found.checks) == ["one", "two"] and found.checks["two"].after == ("one",)


def test_sentences_of_its_own_are_not_needed(make):
    """An exercise may go without [words]."""
    assert load(make(GOOD.partition("[words")[0])).words == {}


# What is wrong


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("stars = ", "not valid TOML"),
        ("stars = 1\nstars = 2", "not valid TOML"),
        (b"title = '\xff'", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
    ],
    ids=["cut", "twice", "no utf-8", "deep"],
)
def test_what_is_no_toml_is_said(make, text, what):
    """A file that can't be parsed is named together with the parser's own words."""
    folder = make(text)

    with pytest.raises(BadExercise, match=what) as caught:
        load(folder)
    assert str(folder / "exercise.toml") in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_folder_without_the_file_is_said(tmp_path):
    """A folder of checks without exercise.toml is an error with the file's name."""
    with pytest.raises(BadExercise, match=r"exercise\.toml"):
        load(tmp_path)


BROKEN = {
    "stars": [("stars = 2", ""), ("stars = 2", 'stars = "2"'), ("stars = 2", "stars = true")],
    "minutes": [("minutes = 30", "minutes = 1.5")],
    "module": [('module = "tiny"', ""), ('module = "tiny"', 'module = " "')],
    "brokers": [
        ('["redis", "rabbitmq"]', '"redis"'),
        ('["redis", "rabbitmq"]', "[]"),
        ('["redis", "rabbitmq"]', '["redis", "kafka"]'),
        ('["redis", "rabbitmq"]', '[["redis"]]'),
        ('["redis", "rabbitmq"]', '["redis", "redis"]'),
    ],
    "files": [('["tiny.py"]', "[]"), ('["tiny.py"]', "[1]"), ('["tiny.py"]', '"tiny.py"')],
    "title": [('title = { en = "Tiny", zh = "小练习" }', 'title = "Tiny"')],
    "title.zh": [
        (', zh = "小练习"', ""),
        ('zh = "小练习"', 'zh = ""'),
        ('zh = "小练习"', "zh = 1"),
    ],
    "title.en": [('en = "Tiny", ', "")],
    "criteria.one.points": [
        ("points = 60", "points = 61"),
        ("points = 60", "points = 0"),
        ("points = 60", "points = -2"),
        ("points = 60", "points = 60.0"),
        ("points = 60", ""),
    ],
    "criteria.one.zh": [('zh = "一"', "")],
    "criteria.one.hints.default": [('hints.default = { en = "Why?"', 'hints.first = { en = "?"')],
    "criteria.one.hints.default.zh": [(', zh = "为什么？"', "")],
    "criteria.one.hints.other": [
        ("Which {{}}?", "Which {name}?"),
        ("Which {{}}?", "Which {?"),
        ("hints.other = {", "hints.other = 3 # {"),
    ],
    "criteria.two.bonus": [("bonus = true", 'bonus = "no"')],
    "criteria.two.hints": [('hints.default = { en = "How?", zh = "怎么做？" }', "hints = 3")],
    "words.seen.expected": [('zh = "{b} 和 {a}"', 'zh = "{a}"'), ('zh = "{b} 和 {a}"', 'zh = "}"')],
    "words.seen.observed": [('observed = { en = "nothing", zh = "没有" }', "")],
    "words.seen.observed.zh": [(', zh = "没有"', "")],
}


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [(key, old, new) for key, changes in BROKEN.items() for old, new in changes],
)
def test_a_wrong_key_is_named(make, key, old, new):
    """A missing key, a wrong type or a missing translation is named with its file."""
    assert GOOD.count(old) == 1
    folder = make(GOOD.replace(old, new))

    with pytest.raises(BadExercise) as caught:
        load(folder)
    assert f"`{key}`" in str(caught.value) and str(folder / "exercise.toml") in str(caught.value)
    assert caught.value.text.render("zh") != str(caught.value)


HEAD, REST = GOOD[: GOOD.index("[criteria.one]")], "[words.seen]"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("criteria", HEAD),
        ("criteria", HEAD + "[criteria]\n"),
        ("criteria", "criteria = 3\n" + HEAD),
        ("criteria.one", HEAD + "[criteria]\none = 3\n"),
        ("words", "words = 3\n" + GOOD[: GOOD.index(REST)]),
        ("words.seen.expected", GOOD[: GOOD.index(REST)] + "[words]\nseen = 3\n"),
    ],
)
def test_a_table_that_is_none_is_named(make, key, text):
    """A value in place of a table, and a rubric without a row, are named."""
    with pytest.raises(BadExercise, match=f"`{key}`"):
        load(make(text))


# The checks


def test_rubric_and_checks_name_the_same(make):
    """A check without a row and a row without a check are both named."""
    found = load(make(test_tiny=CHECKS.replace("test_two", "test_three"), id="odd"))

    with pytest.raises(BadExercise, match=r"three, two"):
        _ = found.checks


def test_a_criterion_has_one_check(make):
    """Two files that check the same criterion are an error: one of them would never run."""
    found = load(make(test_a=CHECKS, test_b=CHECKS.split("@check(after")[0], id="twice"))

    with pytest.raises(BadExercise, match=r"\(one\)"):
        _ = found.checks


def test_a_broken_check_file_stays_broken(make):
    """A file of checks that can't be imported says so each time, not only the first."""
    file = (
        make(test_tiny="from grader.check import check\nraise OSError('no')", id="br")
        / "test_tiny.py"
    )

    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            load_checks(file)


def test_two_exercises_of_one_name_are_two(make, tmp_path):
    """Check files are told apart by their path, not only by the names of folder and file."""
    first = make(test_tiny=CHECKS, id="same") / "test_tiny.py"
    second = tmp_path / "elsewhere" / "same" / "test_tiny.py"
    second.parent.mkdir(parents=True)
    second.write_text(CHECKS.replace("test_two", "test_other"))

    assert [c.id for c in load_checks(first)] == ["one", "two"]
    assert [c.id for c in load_checks(second)] == ["one", "other"]


def test_threads_never_see_half_a_file(make, monkeypatch):
    """Two threads that need the same checks at once both get all of them."""
    halfway, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(builtins, "halfway", halfway, raising=False)
    monkeypatch.setattr(builtins, "go_on", go_on, raising=False)
    text = CHECKS + "halfway.set()\ngo_on.wait(20)\n" + CHECKS.replace("test_two", "test_three")
    file = make(test_tiny=text, id="threads") / "test_tiny.py"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load_checks, file)
        assert halfway.wait(20)
        second = pool.submit(load_checks, file)
        wait([second], timeout=0.1)  # where it does not wait for the first, it is back by now
        go_on.set()
        assert len(first.result()) == len(second.result()) == 3


# Which exercise is meant


def test_an_exercise_is_found_by_its_id(make):
    """The folder's name is the id; a slash at its end, as shells add it, does no harm."""
    make()

    assert find("1_1").id == find("1_1/").id == "1_1"


@pytest.mark.parametrize("id", ["1_2", "11", "1.1", "1-1"])
def test_the_nearest_of_several_is_suggested(make, id):
    """An id that is nearly right gets the one that it looks like."""
    for known in ("1_1", "3_1", "debug_1", "project_1"):
        make(id=known)

    with pytest.raises(UsageError, match=r"Did you mean 1_1\? `lab list`"):
        find(id)


def test_where_none_is_near_all_are_named(make):
    """An id like none there is gets the list."""
    make(id="1_1")
    make(id="debug_1")

    with pytest.raises(UsageError, match=r"Did you mean 1_1, debug_1\?"):
        find("zzz")


@pytest.mark.parametrize("id", ["1_3", "zzz", "", "..", "1_1/..", "x" * 5000, "a/b", "\0", "/etc"])
def test_the_only_exercise_is_suggested_for_anything(make, id):
    """With one exercise that is the suggestion, whatever was asked for."""
    make()

    with pytest.raises(UsageError, match=r"Did you mean 1_1\?"):
        find(id)


def test_without_exercises_that_is_said(make, tmp_path):
    """An empty exercises folder is named instead of a suggestion that makes no sense."""
    with pytest.raises(UsageError, match="holds none at all") as caught:
        find("1_3")
    assert str(tmp_path) in str(caught.value)
    assert "1_3" in caught.value.text.render("zh")


def test_a_criterion_is_suggested_alike(make):
    """An unknown criterion gets the nearest one, or all of them."""
    found = load(make())

    with pytest.raises(UsageError, match=r"no criterion tow\. Did you mean two\?"):
        found.criterion("tow")
    with pytest.raises(UsageError, match=r"Did you mean one, two\?"):
        found.criterion("zzz")


def test_nearest_always_says_something():
    """`nearest` names a word where there is one, and `suggestion` all where none is near."""
    assert nearest("gade", ["grade", "list"]) == "grade"
    assert nearest("zzz", ["grade"]) == "grade"
    assert suggestion("gade", ["grade", "list"]) == "grade"
    assert suggestion("zzz", ["grade", "list"]) == "grade, list"


@pytest.mark.parametrize(
    ("head", "is_draft"),
    [
        ("draft = true\n", True),
        ("# why\nstars_ = 1\ndraft=true # not yet\n", True),
        ("draft = false\n", False),
        ("# draft = true\n", False),
        ('draft = "true"\n', False),
        ("", False),
    ],
)
def test_a_draft_is_found_by_its_id_only(make, head, is_draft):
    """What is not ready is in no list and suggested to nobody, and found when it is named."""
    make()
    make(head + GOOD, "2_2")

    assert [folder.name for folder in exercise.folders()] == ["1_1", "2_2"][: 2 - is_draft]
    assert [folder.name for folder in exercise.folders(drafts=True)] == ["1_1", "2_2"]
    assert find("2_2").id == "2_2"


def test_a_draft_is_said_before_the_first_table(make):
    """A criterion's own keys make no draft of the exercise."""
    make(GOOD.replace("bonus = true", "bonus = true\ndraft = true"))

    assert [folder.name for folder in exercise.folders()] == ["1_1"]
