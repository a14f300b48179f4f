"""The documents' generated tables, and the rules that handouts keep in both languages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from grader import starter
from grader.attacks.case import FOLDER as ATTACKS
from grader.attacks.matrix import attack_table
from grader.exercise import EXERCISES, ROOT, Exercise, find, folders
from grader.notebook import script as notebooks
from grader.rubric import rubric_problems

BLOCK = re.compile(r"(<!-- generated: (?P<name>\w+) -->\n).*?(<!-- end generated -->)", re.S)
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
HEADING = re.compile(r"^(#+) ", re.M)
HANDOUTS = {"en": "README.md", "zh": "README.zh-CN.md"}
WORDS = {
    "exercises": {
        "en": "| Exercise | Level | Minutes | Core | Bonus | Brokers |",
        "zh": "| 练习 | 难度 | 分钟 | 核心分 | 加分 | 消息代理 |",
    },
    "rubric": {
        "en": "| Criterion | `-k` | Points |",
        "zh": "| 评分项 | `-k` | 分值 |",
    },
}
BONUS = {"en": "bonus", "zh": "加分"}


def language_of(path: Path) -> str:
    """Return the language of a document by its name."""
    return "zh" if path.name.endswith(".zh-CN.md") else "en"


def exercise_table(path: Path) -> str:
    """Return the table of all exercises, with links that fit the document's place."""
    lang = language_of(path)
    head = WORDS["exercises"][lang]
    rows = [head, "|---|---|---|---|---|---|"]
    for exercise in map(find, (folder.name for folder in folders())):
        place = (exercise.folder / HANDOUTS[lang]).relative_to(path.parent).as_posix()
        core, bonus = exercise.points(), exercise.points(bonus=True)
        stars = "★" * exercise.stars
        rows.append(
            f"| [{exercise.id} {exercise.title[lang]}]({place}) | {stars} | {exercise.minutes} "
            f"| {core} | {bonus} | {', '.join(exercise.brokers)} |"
        )
    return "\n".join(rows) + "\n"


def rubric_table(path: Path) -> str:
    """Return the rubric of the exercise whose handout this is."""
    lang, exercise = language_of(path), find(path.parent.name)
    rows = [WORDS["rubric"][lang], "|---|---|---|"]
    for criterion in exercise.criteria:
        title = exercise.checks[criterion.id].claim if lang == "en" else criterion.title["zh"]
        mark = f" ({BONUS[lang]})" if criterion.bonus else ""
        rows.append(f"| {title} | `{criterion.id}` | {criterion.points}{mark} |")
    return "\n".join(rows) + "\n"


def attack_rows(path: Path) -> str:
    """Return the table of all attacks."""
    return attack_table(path, language_of(path))


BLOCKS: dict[str, Callable[[Path], str]] = {
    "exercises": exercise_table,
    "rubric": rubric_table,
    "attacks": attack_rows,
}


def documents() -> Iterator[Path]:
    """Yield the documents that may hold generated blocks."""
    for folder in (ROOT, EXERCISES, ATTACKS, *folders()):
        yield from (folder / name for name in HANDOUTS.values() if (folder / name).is_file())


def generated(path: Path) -> str:
    """Return the document's text with every generated block made anew."""

    def fill(match: re.Match[str]) -> str:
        return match[1] + BLOCKS[match["name"]](path) + match[3]

    return BLOCK.sub(fill, path.read_text(encoding="utf-8"))


def refresh() -> list[Path]:
    """Write all that is generated anew: blocks, starters, notebooks; return what changed."""
    changed = [p for p in documents() if generated(p) != p.read_text(encoding="utf-8")]
    for path in changed:
        path.write_text(generated(path), encoding="utf-8")
    return changed + starter.refresh() + notebooks.refresh()


def problems() -> list[str]:
    """Return what is wrong with the documents and rubrics, a sentence each."""
    stale = [p for p in documents() if generated(p) != p.read_text(encoding="utf-8")]
    found = [f"{p.relative_to(ROOT)}: a generated table is stale; run `lab tables`" for p in stale]
    found += [f"exercises/.starters/{id} is stale; run `lab tables`" for id in starter.stale()]
    found += [
        f"notebook {id} ({lang}) is stale; run `lab tables`" for id, lang in notebooks.stale()
    ]
    for folder in folders():
        found += exercise_problems(find(folder.name))
    return found


def exercise_problems(exercise: Exercise) -> list[str]:
    """Return what is wrong with one exercise's rubric, files and handouts."""
    pair = [exercise.folder / name for name in HANDOUTS.values()]
    absent = [f"{path} is missing" for path in pair if not path.is_file()]
    return rubric_problems(exercise) + (absent or handout_problems(*pair))


def handout_problems(english: Path, chinese: Path) -> list[str]:
    """Return where two handouts differ in headings or code blocks."""
    one, other = (path.read_text(encoding="utf-8") for path in (english, chinese))
    found = []
    bare = [FENCE.sub("", text) for text in (one, other)]
    if HEADING.findall(bare[0]) != HEADING.findall(bare[1]):
        found.append(f"{english.parent}: the two handouts have different headings")
    if FENCE.findall(one) != FENCE.findall(other):
        found.append(f"{english.parent}: the two handouts have different code blocks")
    return found
