"""The published suite of attacks (tests/attacks): each is graded, and none gets anything.

`--durations=0` tells how long each took. They run beside each other: the first test of a broker
starts all of its attacks that were asked for, each test waits for its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grader.attacks.case import FOLDER, Attack, attacks, read
from grader.attacks.ground import Ground
from grader.attacks.overlay import lay, wrapped
from grader.attacks.suite import AT_ONCE, Suite, barriers, bouts
from grader.attacks.traces import Traces
from grader.documents import handout_problems
from grader.errors import BadExercise
from grader.exercise import find, folders
from grader.extras import supply
from grader.runner import grade
from grader.sandbox import best
from grader.session import session
from grader.submission import Submission
from grader.verdict import Verdict

SEED = 20_240_229
KNOWN_SEED = 4242  # of tests/attacks/knows_a_seed
# What an attack meets is the same everywhere, so the quick exercises have more of them.
SHARES = {"1_1": 6, "1_2": 9}
# Loaded when this file is collected: each exercise is a row of tests.
EXERCISES = [find(folder.name) for folder in folders()]
ATTACKS = {attack.id: attack for attack in attacks()}


def often(attack, exercise):
    """Whether a pair is tried at each run of the tests; `lab verify --attacks` tries all.

    Each attack meets one of the exercises that it fits, each exercise its share of the attacks.
    """
    turns = [
        each.id for each in EXERCISES if attack.fits(each) for _ in range(SHARES.get(each.id, 1))
    ]
    return exercise.id == turns[list(ATTACKS).index(attack.id) % len(turns)]


PAIRS = {
    f"{broker}-{exercise.id}-{attack.id}": (broker, attack, exercise)
    for broker in ("redis", "rabbitmq")
    for attack, exercise in bouts(broker, EXERCISES)
    if often(attack, exercise)
}
NAIVE = [attack for attack in ATTACKS.values() if attack.naive]


class Arena:
    """One broker's ground, with the attacks on it that were asked for."""

    def __init__(self, broker, pairs):
        self._open = contextlib.ExitStack()
        stack = self._open.enter_context(session())
        if stack.missing((broker,)):
            self._open.close()
            stop = pytest.fail if os.environ.get("LAB_REQUIRE_RABBITMQ") == "1" else pytest.skip
            stop(f"{broker} is not installed")
        supply((extra for exercise in EXERCISES for extra in exercise.extras), print)
        ground = self._open.enter_context(Ground(stack, broker))
        self.suite = Suite(ground, best(), barriers(best()), SEED)
        self._pool = self._open.enter_context(ThreadPoolExecutor(AT_ONCE))
        self._futures = {
            (attack.id, exercise.id): self._pool.submit(self.suite.one, attack, exercise)
            for attack, exercise in pairs
        }

    def bout(self, attack, exercise):
        return self._futures[attack.id, exercise.id].result()

    def close(self):
        self._open.close()


@pytest.fixture(scope="module")
def arenas(request):
    """Return a function that opens a broker's arena; the first of all looks for traces first."""
    opened = {}
    traces = Traces()
    asked = [i.callspec.params["pair"] for i in request.session.items if "pair" in names_of(i)]

    def arena(broker):
        if broker not in opened:
            mine = [PAIRS[name][1:] for name in asked if PAIRS[name][0] == broker]
            opened[broker] = Arena(broker, mine)
        return opened[broker]

    arena.opened, arena.traces = opened, traces
    yield arena
    for each in opened.values():
        each.close()


def names_of(item):
    return item.callspec.params if hasattr(item, "callspec") else ()


@pytest.mark.parametrize("pair", PAIRS)
def test_an_attack_gets_nothing(pair, arenas):
    """An attack runs, wins nothing, harms nobody and leaves the verdicts clear."""
    broker, attack, exercise = PAIRS[pair]

    bout = arenas(broker).bout(attack, exercise)

    if bout.not_enforced:
        pytest.skip(f"not enforced here: {', '.join(bout.not_enforced)}")
    assert not bout.problems, "\n".join(bout.problems)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_the_next_submission_is_graded_normally(broker, arenas):
    """Where all the attacks were, a reference solution has full points."""
    assert not arenas(broker).suite.afterwards(find("1_2")).problems


def test_nothing_is_left(arenas):
    """After all attacks no process, file, mount, socket or shared memory of theirs is left."""
    folders_used = [each.suite.ground.stack.home.folder for each in arenas.opened.values()]
    folders_used += [each.suite.ground.folder for each in arenas.opened.values()]

    for each in arenas.opened.values():
        each.close()

    assert [folder for folder in folders_used if folder.exists()] == []
    assert arenas.traces.found() == []


# The attacks bite


@pytest.fixture
def facts(tmp_path):
    """What an attack is told, all of it below the test's own folder."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "escapes").mkdir()
    names = ("secret", "canary", "escape", "solution", "results")
    told = {name: str(tmp_path / f"{name}.txt") for name in names}
    told |= {"escape": str(tmp_path / "escapes" / "here"), "variable": "X", "nonce": "n"}
    return told | {"checks": [], "folders": [], "grader": 1, "bell": ["127.0.0.1", 1]}


@pytest.mark.skipif(best().kind != "bubblewrap", reason="attacks are never run unguarded")
@pytest.mark.parametrize("attack", NAIVE, ids=lambda a: a.id)
def test_a_naive_grader_is_fooled(attack, facts, tmp_path):
    """A grader that imports the submission and believes its exit status gives it full points."""
    work = lay(attack, find("1_2"), tmp_path, facts)
    shutil.copyfile(FOLDER / "naive.py", work / "naive.py")
    guarded = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"]
    guarded += ["--dev", "/dev", "--proc", "/proc", "--bind", str(work), str(work)]

    run = subprocess.run(
        [*guarded, "--chdir", str(work), sys.executable, "naive.py"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
    )

    assert run.stdout.splitlines()[-1] == "passed", run.stdout + run.stderr


def test_the_naive_grader_fails_a_starter(tmp_path):
    """The naive grader of these tests is no fool: a bare starter fails."""
    work = tmp_path / "work"
    shutil.copytree(find("1_2").folder, work)
    shutil.copyfile(FOLDER / "naive.py", work / "naive.py")

    run = subprocess.run(
        [sys.executable, "naive.py"], cwd=work, capture_output=True, text=True, timeout=120
    )

    assert run.stdout.splitlines()[-1] == "failed", run.stdout + run.stderr


@pytest.mark.parametrize("id", ["zip_traversal", "zip_link", "tar_traversal", "tar_links"])
def test_a_naive_unpacker_writes_outside(id, facts, tmp_path):
    """An archive unpacked by whoever believes its names lands where it was aimed."""
    archive = lay(ATTACKS[id], find("1_2"), tmp_path, facts)

    with contextlib.suppress(OSError, KeyError):
        believe(archive, tmp_path / "unpacked")

    assert Path(facts["escape"]).exists()


def believe(archive, to):
    """Unpack an archive and do what each of its members says."""
    to.mkdir()
    if archive.suffix != ".zip":
        with tarfile.open(archive) as tar:
            tar.extractall(to, filter="fully_trusted")
        return
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            target = os.path.join(to, member.filename)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if member.external_attr >> 16 & 0o170000 == 0o120000:
                os.symlink(zipped.read(member), target)
            else:
                Path(target).write_bytes(zipped.read(member))


def test_a_known_seed_earns_its_points():
    """The table of one seed's answers earns its criterion with that seed."""
    exercise = find("1_2")
    with session() as stack, Ground(stack, "redis") as ground:
        place = ground.folder / "known"
        place.mkdir()
        work = lay(ATTACKS["knows_a_seed"], exercise, place, ground.facts(exercise, "known"))
        only = ["basic_arithmetic"]
        found = grade(exercise, Submission.at(work), ["redis"], stack, KNOWN_SEED, only=only)

    assert [f.verdict for f in found.findings] == [Verdict.PASSED]


def test_a_conftest_of_a_submission_is_not_loaded(copy, write):
    """pytest with --submission runs nothing of that folder, whatever pytest would find in it."""
    work = write("from celery import Celery\napp = Celery('greeting')\n")
    for name in ("conftest.py", "sitecustomize.py", "test_greeting.py"):
        (work / name).write_text(f"open({str(work / 'loaded')!r}, 'w').close()\n")
    (work / "pytest.ini").write_text("[pytest]\naddopts = -p conftest\n")

    run = copy.pytest("exercises/9_9", "--submission", work)

    assert run.returncode == 1 and not (work / "loaded").exists(), run.stdout


# The suite itself


def test_the_documents_agree():
    """The suite's page has the same headings and code blocks in both languages."""
    assert handout_problems(FOLDER / "README.md", FOLDER / "README.zh-CN.md") == []


def test_there_are_enough_attacks():
    """There are at least forty, and most of them run their own code."""
    assert len(ATTACKS) >= 40
    assert sum(not (a.refused or a.quiet) for a in ATTACKS.values()) >= 40


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=lambda a: a.id)
def test_an_attack_can_be_heard(attack):
    """An attack that is run has code that says so."""
    code = attack.folder / "attack.py"

    assert attack.refused or attack.quiet or "ran(" in code.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "title = 5",
        'title = { en = "x" }\nholds = { en = "x", zh = "x" }',
        'title = { en = "x", zh = "x" }\nholds = { en = "x", zh = "x" }\non = "nothing"',
        'title = { en = "x", zh = "x" }\nholds = { en = "x", zh = "x" }\nneeds = ["luck"]',
        'title = { en = "x", zh = "x" }\nholds = { en = "x", zh = "x" }\nlevel = 3',
        "not toml",
    ],
)
def test_a_broken_attack_is_named(text, tmp_path):
    """A broken attack.toml is an error that names the file."""
    (tmp_path / "attack.toml").write_text(text)

    with pytest.raises(BadExercise, match=r"attack\.toml"):
        read(tmp_path)


def test_the_overlay_keeps_a_modules_head():
    """The attack comes behind the docstring and the imports that must be first."""
    text = '"""A."""\n\nfrom __future__ import annotations\n\nx = 1\n'

    lines = [line for line in wrapped(text, True).splitlines() if line]

    assert lines == [
        '"""A."""',
        "from __future__ import annotations",
        "import attack",
        "x = 1",
        "attack.after(app)",
    ]


HEAD = "from attack_kit import *\nran()\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1", "never ran"),
        (HEAD + "won('it')", "won it"),
        (HEAD + "loot('{secret}')", "it read the neighbour"),
        (HEAD + "import os; os.fork() or __import__('signal').pause()", None),
        (HEAD, "the neighbour's file was written"),
    ],
)
def test_the_suite_notices(code, said, tmp_path):
    """What an attack wins, reads or writes is told, and so is one that never ran."""
    exercise, box = find("1_2"), best()
    attack = Attack(tmp_path, title={}, holds={}, judged="first")
    with session() as stack, Ground(stack, "redis") as ground:
        (tmp_path / "attack.py").write_text(code.replace("{secret}", ground.secret))
        if said and "written" in said:
            (ground.folder / "neighbour" / "canary.txt").write_text("x")
        problems = Suite(ground, box, barriers(box), SEED).one(attack, exercise).problems

    assert any(said in problem for problem in problems) if said else not problems, problems
