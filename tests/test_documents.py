"""The documents: generated tables are fresh, handouts agree, the README's claims hold."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from grader.documents import BLOCK, documents, exercise_problems, generated, handout_problems
from grader.exercise import EXERCISES, ROOT, find, folders, load
from grader.rubric import rubric_problems

LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
IDS = [folder.name for folder in folders()]


@pytest.mark.parametrize("path", list(documents()), ids=lambda p: str(p.relative_to(ROOT)))
def test_generated_tables_are_fresh(path):
    """Every generated block is what `lab tables` would write."""
    assert generated(path) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("id", IDS)
def test_rubric_handouts_and_files_agree(id):
    """Rubric, checks, hints, files and both handouts of an exercise fit together."""
    assert exercise_problems(find(id)) == []


def test_different_code_blocks_are_found(tmp_path):
    """A code block that was changed in one language only is a problem."""
    one, other = tmp_path / "README.md", tmp_path / "README.zh-CN.md"
    one.write_text("# A\n```sh\nlab up\n```\n")
    other.write_text("# 甲\n```sh\nlab down\n```\n## 乙\n")

    assert len(handout_problems(one, other)) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"zero_text" if text', '"nobody" if text'),  # in a check
        ("def entry(", 'def helper(lab):\n    assert lab, hint("nobody")\n\n\ndef entry('),
    ],
)
def test_a_hint_that_nobody_wrote_is_found(tmp_path, old, new):
    """A name that a check, or what several checks share, gives to hint() is in exercise.toml."""
    folder = tmp_path / "1_2"
    shutil.copytree(EXERCISES / "1_2", folder)
    for file in folder.glob("test_*.py"):
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")

    problems = rubric_problems(load(folder))

    assert len(problems) == 1 and "hints.nobody is not in exercise.toml" in problems[0]


def test_links_lead_somewhere():
    """Every relative link of a Markdown file in the repository leads to a file."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    broken = [
        f"{name}: {target}"
        for name in filter(None, listed)
        for target in LINK.findall((ROOT / name).read_text(encoding="utf-8"))
        if not ((ROOT / name).parent / target).exists()
    ]
    assert broken == []


def test_readmes_agree():
    """The README has the same headings and code blocks in both languages."""
    assert handout_problems(ROOT / "README.md", ROOT / "README.zh-CN.md") == []


def test_the_readme_has_the_table_of_exercises():
    """The README and the exercises' own page hold the generated table."""
    for path in (ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "exercises" / "README.md"):
        assert "exercises" in {match["name"] for match in BLOCK.finditer(path.read_text())}
