"""CONTRIBUTING.md is followed to the letter, in a copy of the repository."""

from __future__ import annotations


def test_the_steps_name_every_file(copy):
    """The ten steps give each file that an exercise needs."""
    wanted = {
        "exercises/9_9": {
            "README.md",
            "README.zh-CN.md",
            "exercise.toml",
            "hints.toml",
            "greeting.py",
        },
        "solutions/9_9": {"greeting.py"},
        "tests/wrong_answers/9_9/no_name": {"greeting.py", "case.toml"},
        "tests/right_answers/9_9/explicit_name": {"greeting.py"},
    }
    for folder, names in wanted.items():
        assert names <= {path.name for path in (copy.root / folder).iterdir()}


def test_the_steps_lead_to_a_green_verify(copy):
    """After `lab tables`, `lab verify 9_9` is green on the example as it stands in the document."""
    tables = copy.lab("tables")
    assert tables.returncode == 0, tables.stderr
    assert "| greet answers with the name" in (copy.starter / "README.md").read_text()

    verify = copy.lab("verify", "9_9")

    assert verify.returncode == 0, verify.stdout + verify.stderr
    assert "wrong/9_9/no_name" in verify.stdout
    assert copy.left_behind() == []
