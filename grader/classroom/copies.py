"""`lab similar`: the newest work of everybody, the pairs that are alike, a page for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from grader.classroom.pages import pages, put
from grader.classroom.similar import Pair, likely
from grader.classroom.work import Work
from grader.errors import BadSubmission
from grader.exercise import Exercise
from grader.submission import Submission

LARGEST = 400_000  # characters of one work; nobody writes as much by hand


def text_of(submission: Submission) -> str:
    """Return the Python files of a submission, one after the other, each below its name."""
    names = sorted(name for name in submission.names() if name.endswith(".py"))
    parts = []
    for name in names:
        text = (submission.path / name).read_bytes().decode("utf-8", "replace")
        parts.append(f"# ---- {name}\n{text.rstrip()}\n")
    return "\n".join(parts)[:LARGEST]


def texts(works: Sequence[Work], to: Path) -> Iterator[tuple[Work, str]]:
    """Yield the text of each work; what has to be put together or unpacked is put below `to`."""
    for number, work in enumerate(works):
        try:
            laid = work.lay(to / str(number))
            if not laid.path.is_dir():
                laid = Submission(laid.copy(to / f"{number}-open", _exercise(work)))
            yield work, text_of(laid)
        except (BadSubmission, OSError):
            continue  # there is nothing to compare; its grading says why


def _exercise(work: Work) -> Exercise:
    from grader.exercise import find

    return find(work.exercise)


def write_copies(
    works: Sequence[Work],
    exercises: Sequence[Exercise],
    least: float,
    lang: str,
    scratch: Path,
    to: Path,
) -> Iterator[tuple[str, Pair]]:
    """Write the pages below `to` and yield (exercise, pair), the most alike first."""
    made = pages(lang)
    found: list[tuple[str, Pair, str]] = []
    for exercise in exercises:
        mine = [work for work in works if work.exercise == exercise.id]
        read = {work.student: text for work, text in texts(mine, scratch / exercise.id)}
        starter = text_of(Submission(exercise.folder))
        for pair in likely(read, starter, least):
            page = f"pair-{len(found) + 1}.html"
            sides = [(pair.one, _rows(read, pair, 0)), (pair.other, _rows(read, pair, 1))]
            fields = {"exercise": exercise.id, "pair": pair, "sides": sides}
            put(to / page, made.get_template("pair.html").render(**fields))
            found.append((exercise.id, pair, page))
    found.sort(key=lambda row: -row[1].share)
    put(to / "index.html", made.get_template("similar.html").render(pairs=found))
    yield from ((id, pair) for id, pair, _ in found)


def _rows(read: dict[str, str], pair: Pair, side: int) -> list[tuple[int, str, bool]]:
    """Return (number, line, whether the other work has it too)."""
    text = read[pair.one if side == 0 else pair.other]
    shown = enumerate(text.splitlines(), 1)
    return [(number, visible(line), number in pair.lines[side]) for number, line in shown]


def visible(line: str) -> str:
    """Return a line of a program as it can be shown: indented, its control characters visible."""
    return "".join(c if c.isprintable() else " " * 4 if c == "\t" else repr(c)[1:-1] for c in line)
