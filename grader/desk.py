"""What a check of files has at hand: the submission's copy, and no process of it.

Such a check can be judged although the submission does not even start, so that a mistake in one
file costs nothing in another.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from grader.exercise import Exercise
from grader.home import remove
from grader.stack.provider import Stack
from grader.submission import Submission
from grader.words import Text

T = TypeVar("T")


class Desk:
    """A copy of a submission to be read.

    Attributes:
        folder: where the copy lies.
        remarks: what is to be said on the score card beside the criteria; a check adds to it.
        rng: draws this check's inputs; the same for the same seed.
    """

    def __init__(self, exercise: Exercise, submission: Submission, stack: Stack, seed: int) -> None:
        self._stem = stack.home.folder / f"{exercise.id}-desk-{id(self):x}"
        self._made: dict[str, Any] = {}
        self.rng = random.Random(seed)
        self.remarks: list[Text] = []
        try:
            self.folder: Path = submission.copy(self._stem, exercise)
        except BaseException:
            self.close()
            raise

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` made when it was first asked for under this name, at this desk."""
        if name not in self._made:
            self._made[name] = make()
        return cast(T, self._made[name])

    def close(self) -> None:
        """Remove the copy."""
        remove(self._stem)
