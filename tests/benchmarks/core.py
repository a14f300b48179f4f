"""Grades the core criteria of 1_2 on the embedded Redis once, as `lab grade` does."""

from __future__ import annotations

from grader.exercise import SOLUTIONS, find
from grader.runner import grade
from grader.session import session
from grader.submission import Submission


def main() -> None:
    """Grade the reference solution; anything but full points is an error."""
    exercise = find("1_2")
    core = [criterion.id for criterion in exercise.criteria if not criterion.bonus]
    with session("embedded") as stack:
        submission = Submission.at(SOLUTIONS / "1_2")
        result = grade(exercise, submission, ("redis",), stack, 1, only=core)
    assert result.score == result.max_score, result


if __name__ == "__main__":
    main()
