"""`lab hint`: three steps, asking before telling; and the file that holds the last two."""

from __future__ import annotations

import re
import shutil

import pytest
from click.testing import CliRunner

from grader import progress
from grader.cli.hint import hint_command
from grader.errors import BadExercise, UsageError
from grader.exercise import EXERCISES, find, load
from grader.hints import further, hint_problems
from grader.record import last
from grader.rubric import rubric_problems
from grader.tutor import first_open, nudge
from grader.verdict import Verdict

EXERCISE = find("1_2")

TEXT = 'pointer = {{ en = "Look {n}", zh = "看{n}" }}\nanswer = {{ en = "Do {n}", zh = "做{n}" }}\n'


@pytest.fixture
def written(monkeypatch, tmp_path):
    """A copy of 1_2 with all of its hints, which `lab hint` finds in place of the real one."""
    folder = tmp_path / "exercises" / "1_2"
    shutil.copytree(EXERCISES / "1_2", folder)
    rows = [f"[{c.id}]\n" + TEXT.format(n=c.id) for c in EXERCISE.criteria]
    (folder / "hints.toml").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.setattr("grader.exercise.EXERCISES", tmp_path / "exercises")
    return folder


def lab_hint(*arguments):
    """Call `lab hint` and return (exit status, what was printed)."""
    run = CliRunner().invoke(hint_command, list(arguments))
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    return run.exit_code, run.output


def test_each_call_goes_one_step_further(student, written, keep):
    """First a question, then where to look, then what to do; and it stays there."""
    keep("powers")

    said = [" ".join(lab_hint("1_2")[1].split()) for _ in range(4)]

    assert "Hint 1 of 3, a question: why?" in said[0] and "lab hint 1_2 powers" in said[0]
    assert "Hint 2 of 3, where to look: Look powers" in said[1] and "redis FAIL" in said[1]
    assert "Hint 3 of 3, what to do: Do powers" in said[2]
    assert said[3] == said[2]
    assert "Do powers" not in said[0] + said[1]


def test_a_step_can_be_asked_for(student, written):
    """--step shows that step; to read an earlier one again takes nothing back."""
    assert "Do powers" in lab_hint("1_2", "powers", "--step", "3")[1]
    assert "Hint 1 of 3" in lab_hint("1_2", "powers", "--step", "1")[1]
    assert progress.read()["1_2"].hints["powers"].step == 3


def test_a_new_mistake_begins_with_its_question(student, written, keep):
    """Where a run recognises another mistake, its own hint comes before any answer."""
    keep("powers", hint="one mistake")
    lab_hint("1_2")
    lab_hint("1_2")
    keep("powers", hint="another mistake")

    assert "a question: another mistake" in " ".join(lab_hint("1_2")[1].split())


def test_hints_are_given_in_chinese(student, written, keep):
    """With --lang zh every word is Chinese but the ids."""
    keep("powers")

    said = lab_hint("1_2", "--lang", "zh")[1] + lab_hint("1_2", "--lang", "zh")[1]

    assert "为什么？" in said and "看powers" in said and "Hint" not in said


def test_core_comes_before_bonus_and_failures_before_what_waits(student, keep):
    """The first criterion is the rubric's first that failed; unknown and blocked come after."""
    keep("trigonometry", "overflow", "powers")
    assert first_open(EXERCISE, last("1_2")).id == "powers"
    keep("trigonometry")
    assert first_open(EXERCISE, last("1_2")).id == "trigonometry"
    for verdict in (Verdict.BLOCKED, Verdict.UNKNOWN):
        keep("powers", verdict=verdict)
        assert first_open(EXERCISE, last("1_2")).id == "powers"
    keep()
    assert first_open(EXERCISE, last("1_2")) is None


def test_the_usual_hint_serves_where_no_mistake_was_met(student, keep):
    """Without a run, and for what is blocked, the first step is the criterion's own question."""
    row = EXERCISE.criterion("powers")

    assert nudge(row, None) is row.hints["default"]
    keep("powers", verdict=Verdict.BLOCKED, hint="")
    assert nudge(row, last("1_2")) is row.hints["default"]


def test_work_that_does_not_start_has_hints_of_its_own(student, written, keep):
    """A criterion's hints help nobody whose file can't even be imported."""
    keep("powers", note="SyntaxError")

    said = [" ".join(lab_hint("1_2")[1].split()) for _ in range(3)]

    assert "does not start" in said[0] and 'python -c "import calculator"' in said[1]
    assert "called `app`" in said[2] and "powers" not in said[2].partition("Hint 3")[2]


def test_braces_in_a_hint_are_its_own(student, keep):
    """A stored hint is no template."""
    keep("powers", hint="what is {x}?")

    assert nudge(EXERCISE.criterion("powers"), last("1_2")).render("en") == "what is {x}?"


def test_without_a_run_it_says_what_to_run(student):
    """No last run, and none that can be read, is an error that names the command."""
    with pytest.raises(UsageError, match=r"lab grade 1_2"):
        lab_hint("1_2")


def test_where_all_passed_it_says_how_to_go_on(student, keep):
    """All passed, or all that was tried: two different sentences."""
    keep()
    assert "passed all 28 criteria" in lab_hint("1_2")[1]
    keep(only=("powers",))
    assert "tried 1 of 28" in lab_hint("1_2")[1]


@pytest.mark.parametrize(
    ("arguments", "words"), [(("1_9",), "1_2"), (("1_2", "power"), "powers"), (("",), "1_1")]
)
def test_wrong_names_are_told_with_the_right_ones(student, arguments, words):
    """An exercise or a criterion that does not exist is told with what it may stand for."""
    with pytest.raises(UsageError, match=words):
        lab_hint(*arguments)


def test_what_cannot_be_remembered_is_still_shown(student, written):
    """Where the progress can't be written, the hint is shown, and how to get the next one."""
    student.write_text("no folder")

    said = " ".join(lab_hint("1_2", "powers")[1].split())

    assert "Hint 1 of 3" in said and "--step 2" in said


def test_a_broken_progress_file_is_told(student, written):
    """A progress file that can't be read costs one line, not the hint."""
    student.mkdir()
    (student / "progress.json").write_text("{")

    said = " ".join(lab_hint("1_2", "powers")[1].split())

    assert "can't be read" in said and "Hint 1 of 3" in said


def test_a_hint_that_nobody_wrote_is_told(student, written):
    """Where a step is not written, the handout is named in its place."""
    (written / "hints.toml").unlink()

    assert "exercises/1_2/README.md" in lab_hint("1_2", "powers", "--step", "3")[1]


# The file


def test_whole_hints_are_no_problem(written):
    """A file with every text in both languages, in order, is right."""
    assert list(hint_problems(load(written))) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[powers]", "[other]", "no criterion other"),
        ("[powers]", "[powers]\n[x]", "powers has no pointer"),
        (', zh = "看powers"', "", r"powers\.pointer\.zh"),
        ('en = "Do powers"', 'en = " "', r"powers\.answer\.en"),
        ("Do powers", "Do {this}", r"powers\.answer"),
        ("[powers]", "[powers", "TOML"),
        ('answer = { en = "Do powers", zh = "做powers" }', "answer = 3", r"powers\.answer"),
    ],
)
def test_what_is_missing_is_found(written, old, new, words):
    """Whatever is not there in both languages is a problem that `lab verify` names."""
    file = written / "hints.toml"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))

    problems = "\n".join(rubric_problems(load(written)))

    assert re.search(words, problems), problems


def test_another_order_is_found(written):
    """Tables in another order than the rubric's are told."""
    file = written / "hints.toml"
    parts = file.read_text().split("\n[")
    file.write_text("[" + "\n[".join([parts[1], parts[0].removeprefix("["), *parts[2:]]))

    assert "order" in "\n".join(hint_problems(load(written)))


def test_an_unreadable_file_is_told(written):
    """What is no text is an error that names the file."""
    (written / "hints.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(BadExercise, match=r"hints\.toml"):
        further(find("1_2"), "powers")


def test_a_run_keeps_its_record(copy):
    """`lab grade` and pytest of the own work keep it; other folders and `lab verify` don't."""
    kept = copy.root / ".lab" / "student" / "last" / "9_9"
    shutil.rmtree(copy.root / ".lab", ignore_errors=True)
    copy.lab("grade", "9_9", "--submission", copy.solution)
    assert not kept.exists()
    copy.lab("grade", "9_9")
    assert kept.exists()
    kept.unlink()
    copy.pytest("exercises/9_9")
    assert kept.exists()

    steps = [copy.lab("hint", "9_9").stdout for _ in range(3)]

    assert "Which TODO of the starter" in steps[0]
    assert "What does a task give to its caller?" in steps[1]
    assert "Return the text with the name" in steps[2]
    shutil.rmtree(copy.root / ".lab")


def test_a_run_that_cannot_be_kept_is_graded_all_the_same(copy):
    """Where .lab can't be written, grading and pytest say so in one line and count as ever."""
    shutil.rmtree(copy.root / ".lab", ignore_errors=True)
    (copy.root / ".lab").write_text("a file in the place of the folder")
    try:
        runs = [copy.lab("grade", "9_9"), copy.pytest("exercises/9_9")]
    finally:
        (copy.root / ".lab").unlink()

    for run in runs:
        said = run.stdout + run.stderr
        assert run.returncode == 1 and said.count("could not be kept") == 1
        assert "Which TODO of the starter" in said and "Traceback" not in said


def test_an_interrupted_run_is_not_the_last_one(copy):
    """pytest that was interrupted keeps the record of the run before."""
    copy.pytest("exercises/9_9")
    kept = copy.root / ".lab" / "student" / "last" / "9_9"
    before = kept.read_bytes()
    broken = copy.starter / "conftest.py"
    broken.write_text(
        "import pytest\n\n\n@pytest.hookimpl(trylast=True)\n"
        "def pytest_runtest_teardown(item):\n    raise KeyboardInterrupt\n"
    )
    try:
        run = copy.pytest("exercises/9_9")
    finally:
        broken.unlink()

    assert run.returncode == 2 and kept.read_bytes() == before
    shutil.rmtree(copy.root / ".lab")
