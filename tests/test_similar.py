"""`lab similar`: copies are found whatever their names, and those who worked alone are not."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from grader.classroom.copies import text_of, write_copies
from grader.classroom.similar import fingerprints, likely
from grader.classroom.work import Piece, Work
from grader.exercise import SOLUTIONS, find
from grader.submission import Submission
from grader.verify import RIGHT

EXERCISE = find("1_2")
STARTER = text_of(Submission(EXERCISE.folder))
REAL = {
    folder.name: text_of(Submission(folder))
    for folder in [SOLUTIONS / "1_2", *sorted((RIGHT / "1_2").iterdir())]
}


def renamed(text):
    """A copy with other names, other comments and blank lines."""
    text = re.sub(r"\b(result|value|number|numbers|args|name)\b", r"my_\1", text)
    return re.sub(r"#.*", "# all my own work", text).replace("\n\n", "\n\n\n")


def test_a_renamed_copy_is_found():
    """Other names and comments hide nothing; the same lines are marked on both sides."""
    works = {**REAL, "copy": renamed(REAL["1_2"])}

    (pair, *_) = likely(works, STARTER)

    assert {pair.one, pair.other} == {"1_2", "copy"}
    assert pair.share > 0.9
    assert min(map(len, pair.lines)) > 50


def test_half_a_copy_is_found():
    """Who takes the first half of another's work and writes the rest alone is found too."""
    lines = REAL["1_2"].splitlines()
    half = "\n".join(lines[: len(lines) // 2])

    (pair, *_) = likely({"a": REAL["1_2"], "b": half + "\nprint('mine')\n"}, STARTER)

    assert pair.share > 0.8


def test_works_of_their_own_are_not_alike():
    """No two of the right answers, written in different styles, are taken for copies."""
    assert len(REAL) > 4
    assert likely(REAL, STARTER) == []


def test_the_starter_is_nobodys_likeness():
    """Two who handed in the starter as it was are not alike."""
    assert likely({"a": STARTER, "b": STARTER}, STARTER) == []


def test_what_the_whole_class_has_does_not_count():
    """A passage that everybody has, say from the lecture, makes nobody a copy."""
    works = {f"s{n}": f"{REAL['1_2']}\ndef f{n}(): return {n}\n" for n in range(20)}

    assert likely(works) == []


@pytest.mark.parametrize("text", ["", "x", "def (:", "\x00", '"""', "  a\n b\n", "\ud800"])
def test_no_text_is_too_odd(text):
    """Empty, broken and tiny texts have no fingerprints, and are no error."""
    assert fingerprints(text) == {}
    assert likely({"a": text, "b": text}) == []


def test_broken_programs_are_compared_by_words():
    """Two copies of what Python can't read are found all the same."""
    broken = REAL["1_2"] + '\ndef broken(:\n    """\n'

    assert len(likely({"a": broken, "b": broken}, STARTER)) == 1


def test_pairs_of_a_class_are_named_once():
    """Each pair is named at most once, its names in order."""
    works = {f"s{n}": "\n".join(f"v{n} = {k} + {n}" for k in range(n % 7, 40)) for n in range(100)}

    pairs = [(pair.one, pair.other) for pair in likely(works, least=0.01)]

    assert len(pairs) == len(set(pairs))
    assert set(pairs) <= {tuple(sorted(pair)) for pair in combinations(works, 2)}


def test_the_pages_show_both_sides(tmp_path):
    """The pages name the pair, show both texts, and hostile words stay words."""
    evil = "<script>alert(1)</script>"
    works = []
    for name in ("ann", evil):
        folder = tmp_path / "class" / str(len(works))
        folder.mkdir(parents=True)
        (folder / "calculator.py").write_text(REAL["1_2"] + f"\nx = '{evil}'\n")
        works.append(Work(name, (Piece(folder),), "1_2"))
    gone = Work("gone", (Piece(tmp_path / "gone"),), "1_2")

    to = tmp_path / "out"
    pairs = list(write_copies([*works, gone], [EXERCISE], 0.4, "zh", tmp_path / "open", to))

    assert [(id, pair.share) for id, pair in pairs] == [("1_2", 1.0)]
    assert sorted(path.name for path in to.iterdir()) == ["index.html", "pair-1.html"]
    for page in to.iterdir():
        assert "<script>" not in page.read_text(encoding="utf-8")
        assert "&lt;script&gt;" in page.read_text(encoding="utf-8")
