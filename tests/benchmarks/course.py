"""Measures what a class costs, on the embedded Redis: `lab bench --class 200`.

The works are the right and the wrong answers of 1_2, each told apart by a comment, so that no two
are the same. Costs are compared within one run: the machine's speed drifts, so the last tenth of a
class is held against the first one.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psutil

from grader.exercise import ROOT, SOLUTIONS, find
from grader.verify import RIGHT, lay_out

LAB = [sys.executable, "-m", "grader"]
EXERCISE = find("1_2")


def students(count: int, to: Path) -> None:
    """Write so many works below `to`, a folder each."""
    with tempfile.TemporaryDirectory() as temp:
        wrong = sorted(lay_out(EXERCISE, Path(temp, "wrong")))
        right = [SOLUTIONS / EXERCISE.id, *lay_out(EXERCISE, Path(temp, "right"), RIGHT)]
        answers = itertools.cycle(
            answer for pair in itertools.zip_longest(wrong, right * 9) for answer in pair if answer
        )
        for number in range(count):
            folder = to / f"student-{number:04}"
            shutil.copytree(next(answers), folder)
            module = folder / f"{EXERCISE.module}.py"
            if module.is_file():
                module.write_text(f"{module.read_text('utf-8')}\n# {number}\n", "utf-8")
            else:
                (folder / "mine.txt").write_text(str(number))


def run(*arguments: object) -> tuple[float, list[float]]:
    """Run `lab ...` to its end; return its seconds, and its own memory in MiB twice a second."""
    began, memory = time.monotonic(), []
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*LAB, *map(str, arguments)], cwd=ROOT, stdout=output, stderr=output
        )
        own = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                memory.append(own.memory_info().rss / 2**20)
            except psutil.Error:
                break
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        if process.wait():
            output.seek(0)
            raise SystemExit(f"{arguments} failed:\n{output.read().decode()[-2000:]}")
    return time.monotonic() - began, memory


def costs(book: Path) -> list[float]:
    """Return the seconds of each grading in the book, in their order."""
    with closing(sqlite3.connect(book)) as raw:
        return [row[0] for row in raw.execute("SELECT seconds FROM attempts ORDER BY id")]


def main() -> None:
    """Print every figure with its limit."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as temp:
        works, book = Path(temp, "works"), Path(temp, "grades.sqlite")
        students(count, works)
        call = ("class", works, "--out", book, "--broker", "redis", "--stack", "embedded")
        seconds, memory = run(*call, "--seed", 1)
        tenth = max(1, count // 10)
        first, last = costs(book)[:tenth], costs(book)[-tenth:]
        dearer = statistics.mean(last) / statistics.mean(first)
        later = memory[len(memory) // 5 :]
        again, _ = run(*call)
        report, _ = run("report", book, "--out", Path(temp, "report"))
        print(f"a class of {count:<25} {60 * count / seconds:.0f} a minute (limit 100)")
        print(f"the last tenth against the first     {dearer:.2f} x (limit 1.10)")
        print(f"memory of the coordinator, growth    {max(later) - min(later):.0f} MiB (limit 20)")
        print(f"once more, unchanged                 {again:.1f} s (limit 5 for 200)")
        print(f"lab report                           {report:.1f} s (limit 10 for 200 x 7)")


if __name__ == "__main__":
    main()
