"""grader/growth.py and grader/bench.py without a worker: what readings come to, where sites are."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from grader import bench
from grader.errors import ClientSilent
from grader.exercise import ROOT
from grader.gauge import Reading
from grader.growth import Growth

COMPARE = f"""
import random, sys
sys.path.insert(0, {str(ROOT)!r})
sys.path.insert(0, sys.argv[1])
import memory_debug
from grader.traffic import BAD_LINES, customer, order, record, report, row, text, user
draw = random.Random(7)
for _ in range(20):
    for given in (record(draw), record(draw, attachment=text(draw, 640)),
                  record(draw, lines=BAD_LINES)):
        assert memory_debug.process_record(given) == order(given), given
    who = user(draw)
    assert memory_debug.enrich(who) == customer(who), who
    rows = [row(draw), row(draw, "-"), row(draw, currency="CHF"),
            row(draw, "-", currency="JPY")] * 6
    assert memory_debug.render_report(rows) == report(rows), rows
print("the same")
"""


def growth(descriptors=(), kib=(), step=10):
    """Return what was seen of a process with these readings."""
    count = max(len(descriptors), len(kib))
    rows = zip(list(kib) or [1000.0] * count, list(descriptors) or [13] * count, strict=True)
    return Growth([Reading(n * step, k, d, 0) for n, (k, d) in enumerate(rows)])


def test_a_descriptor_a_task_is_seen():
    """Descriptors that pile up are told by how many."""
    assert growth(descriptors=range(13, 313, 10)).descriptors >= 100


def test_a_connection_now_and_then_is_none():
    """A descriptor that comes and goes is no rise."""
    assert not growth(descriptors=[13, 14, 13, 15, 13, 14] * 5).descriptors


def test_a_key_a_task_is_seen():
    """Keys that pile up in the backend are told by how many, those that go again are not."""
    assert Growth(keys=list(range(0, 300, 10))).strangers >= 100
    assert not Growth(keys=[3, 0, -2] * 10).strangers


def test_an_instrument_that_never_ends_is_left_alone():
    """Whoever does not answer in time is asked nothing more, and its worker goes with it."""
    asked = []

    def silent(within):
        raise ClientSilent("client_silent", module="x", seconds=within)

    place = bench.Bench.__new__(bench.Bench)
    place._busy, place.planted = False, bench.Planted("shop", {"idle": "rest"}, 5)
    place._client = SimpleNamespace(
        start=lambda do, **request: asked.append(request["args"][0]),
        answer=silent,
        call=lambda function, *_: asked.append(function) or SimpleNamespace(error=""),
    )

    with place.worker():
        assert place.say("idle", within=1) is None

    assert asked == ["begin", "shop.rest"]


def test_what_is_planted_gives_no_answer_away():
    """Names are drawn, numbers masked; each task stays at its line, and undoes the mask."""
    tasks = bench.TASK.findall(bench.SOURCE.read_text(encoding="utf-8"))
    planted = bench.Planted("shop", {name: f"t{n}" for n, name in enumerate(tasks)}, 0b1010)

    assert {"hold", "saw", "fill", "idle"} <= set(tasks)
    assert planted.masked([64, "x"]) == [64 ^ 0b1010, "x"]
    assert planted.task("hold") == f"shop.{planted.names['hold']}"
    lines = planted.source.splitlines()
    assert lines[bench.site("hold")[0] - 1].startswith(f"def {planted.names['hold']}(")
    assert "MASK = 10" in lines
    assert not [name for name in tasks if f"def {name}(" in planted.source]


def test_the_slope_is_a_tasks():
    """The slope is in KiB a task, not a reading."""
    assert growth(kib=[1000 + 80 * n for n in range(30)]).slope.estimate == 8


@pytest.mark.parametrize("function", ["hold", "stash"])
def test_the_site_of_a_planted_leak(function):
    """The lines that a diagnosis has to name are those of the planted function."""
    first, last = bench.site(function)
    lines = bench.SOURCE.read_text(encoding="utf-8").splitlines()

    assert lines[first - 1].startswith(f"def {function}(")
    assert any("urandom" in line for line in lines[first:last])


def test_the_two_sites_lie_apart():
    """No line belongs to both planted leaks."""
    assert bench.site("hold")[1] < bench.site("stash")[0]


@pytest.mark.parametrize("folder", ["exercises", "solutions"])
def test_what_the_checks_expect_is_what_the_service_answers(folder):
    """The starter and the solution answer what the checks work out by themselves."""
    run = subprocess.run(
        [sys.executable, "-c", COMPARE, str(ROOT / folder / "debug_1")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )

    assert run.stdout.strip() == "the same", run.stderr[-2000:]
