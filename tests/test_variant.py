"""grader/variant.py: an answer that is another one but for a mistake, or a style."""

from __future__ import annotations

import pytest

from grader import variant
from grader.errors import BadExercise
from grader.exercise import find
from grader.variant import laid
from grader.verify import RIGHT, WRONG, case_of, cases

TEXT = "one\ntwo\ntwo\nthree\n"


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Lay out a variant of a base that holds work.py, and return its folder."""
    monkeypatch.setattr(variant, "ROOT", tmp_path)
    for name in ("work.py", "NOTES.md", "package/__init__.py"):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text(TEXT)
    case = tmp_path / "case"
    case.mkdir()
    (case / "case.toml").write_text("")

    def putting(*changes, base="base", **own):
        for name, text in own.items():
            (case / f"{name}.py").write_text(text)
        return laid(case, {"base": base, "changes": list(changes)}, tmp_path / "laid")

    return putting


def change(old, new, file="work.py"):
    """A change as case.toml has it."""
    return {"file": file, "old": old, "new": new}


def test_the_base_is_changed(put, tmp_path):
    """Each change is made, one after the other, in a copy; the base stays as it is."""
    inner = change("three\n", "E\n", "package/__init__.py")
    to = put(change("one\n", "1\n"), change("1\ntwo", "1\n2"), inner)

    assert (to / "work.py").read_text() == "1\n2\ntwo\nthree\n"
    assert (to / "package" / "__init__.py").read_text() == "one\ntwo\ntwo\nE\n"
    assert (tmp_path / "base" / "work.py").read_text() == TEXT


def test_files_of_its_own_are_added(put):
    """What lies beside case.toml joins the base's files; notes and case.toml do not."""
    to = put(other="mine\n")

    assert sorted(path.name for path in to.iterdir()) == ["other.py", "package", "work.py"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([change("none", "x")], "just once"),
        ([change("two\n", "x")], "just once"),
        ([change("one", "x", "none.py")], "just once"),
        ([{"file": "work.py"}], "all texts"),
        (["one"], "all texts"),
    ],
)
def test_a_change_that_does_not_fit_is_said(put, changes, words):
    """A text that is missing or stands twice, and a change that is none, name case.toml's key."""
    with pytest.raises(BadExercise, match=words):
        put(*changes)


def test_a_missing_base_is_said(put):
    """A base that is not there is named."""
    with pytest.raises(BadExercise, match="base"):
        put(base="nowhere")


def test_a_whole_answer_stays_where_it_is(tmp_path):
    """Without a base nothing is copied."""
    assert laid(tmp_path, {"fails": ["x"]}, tmp_path / "laid") == tmp_path


@pytest.mark.parametrize("folder", [WRONG, RIGHT], ids=["wrong", "right"])
@pytest.mark.parametrize("id", sorted(path.name for path in WRONG.iterdir() if path.is_dir()))
def test_every_variant_fits_its_base(id, folder, tmp_path):
    """Each answer of the project can be laid out, and has the exercise's first file."""
    exercise = find(id)
    for path in cases(folder / id):
        case = case_of(path)
        whole = laid(path, case, tmp_path / path.name)
        assert any(whole.iterdir()), path
        if "base" in case:
            assert case["why"], path
            module = whole / exercise.module
            assert module.is_dir() or module.with_suffix(".py").is_file(), path
