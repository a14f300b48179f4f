"""Draws the README's picture of a score card: `python tests/picture.py` writes .github/card.svg.

The card is that of a real grading, of the wrong answer that adds binary floats.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
WRONG = "tests/wrong_answers/1_2/binary_float"
# Up to the end of the third row: a card is long, the picture shows how a failure reads.
ROWS = 14


def main() -> None:
    """Grade, draw, write."""
    code = f"""
from grader.exercise import find
from grader.report import render
from grader.runner import grade
from grader.session import session
from grader.submission import Submission
from pathlib import Path
with session() as stack:
    result = grade(find("1_2"), Submission.at(Path("{WRONG}")), ("redis",), stack, 7)
print(render([result], "text", "en", color=True))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.rstrip().splitlines()
    console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("\n".join([*lines[:ROWS], "...", *lines[-5:]])))
    svg = console.export_svg(title="lab grade 1_2")
    # No font from elsewhere: the picture must look the same without a network.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)
    (ROOT / ".github" / "card.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
