"""The instruments of exercise debug_1, tried on tasks whose appetite the lab knows."""

from __future__ import annotations

import io

from grader import bench, gauge
from grader.check import check, hint
from grader.curve import sparkline
from grader.expect import Expectation
from grader.growth import alone
from grader.words import Text

LEAKS_KIB = (2, 8, 64)
HELD_KIB, HELD_TIMES = 16, 40
NO_WORKER_SECONDS = 15
WARM = 800
FEW_RUNS, MOST_RUNS = 40, 120
SMALLEST, MOST_PIXELS = 50, 25_000_000


def count(value):
    """Whether this is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def number(value):
    """Whether this is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class succeeds(Expectation):
    """A call that ends with a result."""

    def accepts(self, seen):
        """Say whether it did."""
        return bool(seen.reply and seen.reply.succeeded)

    def wanted(self, seen):
        """Name the call."""
        return Text.plain(f"{seen} -> {{pid, rss_mb, open_files, objects, allocations, gc}}")


def rows_of(value, top, **kinds):
    """Whether this is a list of at most `top` objects with fields of these kinds."""
    return (
        isinstance(value, list)
        and len(value) <= top
        and all(isinstance(r, dict) and all(k(r.get(n)) for n, k in kinds.items()) for r in value)
    )


def is_site(value):
    """Whether this reads file:line."""
    return isinstance(value, str) and value.rpartition(":")[2].isdigit()


def diagnosis(lab, *args):
    """Call diagnose and return what it says; a wrong shape ends the check."""
    call = lab.call("diagnose", *args, within=20)
    assert call == succeeds()
    seen = call.reply.result
    top = args[0] if args else 10
    said = {"call": call, "seen": seen}
    right = isinstance(seen, dict) and all(
        [
            count(seen.get("pid")),
            number(seen.get("rss_mb")),
            count(seen.get("open_files")),
            rows_of(seen.get("objects"), top, type=lambda v: isinstance(v, str), count=count),
            rows_of(seen.get("allocations"), top, site=is_site, size_kb=number, count=number),
            isinstance(seen.get("gc"), dict) and isinstance(seen["gc"].get("enabled"), bool),
        ]
    )
    assert lab.fact(right, "diagnosis_shape", **said)
    counts = seen["gc"].get("counts")
    right = isinstance(counts, list) and len(counts) == 3 and all(count(c) for c in counts)
    assert lab.fact(right, "diagnosis_shape", **said)
    return seen


@check
def test_diagnosis(lab):
    """diagnose tells process, memory, open files, objects, allocations, and the collector."""
    process = alone(lab)
    seen, few = diagnosis(lab), diagnosis(lab, 3)
    pid = gauge.own_pid(process)
    assert lab.fact(seen["pid"] == pid, "diagnosis_pid", wanted=pid, seen=seen["pid"])
    outside = gauge.resident(process)
    said = {"seen": f"{seen['rss_mb']:.1f}", "outside": f"{outside:.1f}"}
    near = 0.5 * outside <= seen["rss_mb"] <= 1.5 * outside
    assert lab.fact(near, "diagnosis_memory", **said)
    most = max(row["count"] for row in seen["objects"] or [{"count": 0}])
    assert lab.fact(most > 100, "diagnosis_objects", most=most)
    assert lab.fact(len(few["objects"]) == 3, "diagnosis_top", rows=len(few["objects"]))


@check(after=test_diagnosis)
def test_diagnosis_names_the_site(lab):
    """diagnose names the line of a planted leak, and tells what is new since the previous call."""
    module = bench.plant(lab)
    alone(lab, "-I", module)
    for function, other in (("hold", "stash"), ("stash", "hold")):
        bench.run(lab, module, function, HELD_KIB, times=HELD_TIMES)
        found = diagnosis(lab)["allocations"]
        mine, not_mine = at(found, module, function), at(found, module, other)
        wanted = HELD_KIB * HELD_TIMES
        said = {"wanted": wanted, "file": f"{module}.py", "seen": found[:4]}
        right = 0.7 * wanted <= mine <= 1.5 * wanted
        assert lab.fact(right, "site_missing", **said), hint("not_named")
        assert lab.fact(not_mine < wanted / 4, "site_old", **said), hint("since_when")


def at(found, module, function):
    """Return the KiB that a diagnosis finds in a planted function."""
    first, last = bench.site(function)
    total = 0
    for row in found:
        file, _, line = row["site"].rpartition(":")
        if file.endswith(f"{module}.py") and first <= int(line) <= last:
            total += row["size_kb"]
    return total


def measured(lab, place, task, *args, **options):
    """Return what debug_memory_leak says of a planted task; a wrong shape ends the check."""
    answer = place.say(task, *args, **options)
    seen = answer.value
    right = isinstance(seen, dict) and isinstance(seen.get("leaking"), bool)
    right = right and number(seen.get("slope_kb_per_task")) and samples_of(seen.get("samples"))
    said = {"task": task, "args": args, "seen": answer.error or seen}
    mistake = "failing" if task == "hold_and_fail" and answer.error else "default"
    assert lab.fact(right, "instrument_shape", **said), hint(mistake)
    return seen


def said_of(seen, task, **more):
    """Return what a finding tells of a measurement: the slope, and the curve that it is of."""
    curve = sparkline([sample["rss_kb"] for sample in seen["samples"]])
    return {"task": task, "slope": f"{seen['slope_kb_per_task']:.2f}", "curve": curve, **more}


def samples_of(value):
    """Whether this is a series of samples in the order of the tasks."""
    if not (isinstance(value, list) and len(value) >= 2):
        return False
    if not rows_of(value, len(value), task=number, rss_kb=number):
        return False
    tasks = [sample["task"] for sample in value]
    return tasks == sorted(tasks) and tasks[0] < tasks[-1]


@check(lane="bench")
def test_tells_a_leak(lab):
    """debug_memory_leak finds planted leaks of 2, 8 and 64 KiB a task, of a failing task too."""
    with bench.Bench(lab) as place:
        # What failures leave is collected in steps, and a small leak fills what that gives back.
        for task, kib in [("hold", kib) for kib in LEAKS_KIB] + [("hold_and_fail", 64)]:
            with place.worker():
                seen = measured(lab, place, task, kib)
            slope = seen["slope_kb_per_task"]
            said = said_of(seen, task, kib=kib, leaking=seen["leaking"])
            mistake = hint("uneven" if task != "hold" else "small" if kib < 8 else "default")
            assert lab.fact(seen["leaking"], "leak_missed", **said), mistake
            # What Celery keeps of a failure until it is collected comes on top of the leak.
            near = kib / 2 <= slope and (slope <= kib * 2 or task == "hold_and_fail")
            assert lab.fact(near, "slope_wrong", **said), hint("slope")


@check(after=test_tells_a_leak, lane="bench")
def test_tells_no_leak(lab):
    """debug_memory_leak clears a clean task, a sawtooth, and a cache that fills and stays."""
    with bench.Bench(lab) as place:
        for task, args in (("idle", ()), ("saw", (4, 10)), ("fill", (8,))):
            with place.worker(warm=WARM):
                seen = measured(lab, place, task, *args)
            said = said_of(seen, task)
            assert lab.fact(not seen["leaking"], "leak_imagined", **said), hint(task)


@check(after=test_tells_a_leak, lane="bench")
def test_instrument_is_tidy(lab):
    """debug_memory_leak draws the curve, leaves no result behind, and says when no worker runs."""
    with bench.Bench(lab) as place:
        began = lab.backend.time()
        answer = place.say("idle")
        took = lab.backend.time()[0] - began[0]
        said = {"seen": answer.error or answer.value, "seconds": took}
        clear = answer.raised("RuntimeError") and not answer.raised("NotImplementedError")
        clear = clear and "\n" not in answer.error
        assert lab.fact(clear, "no_worker", **said), hint("no_worker")
        assert lab.fact(took <= NO_WORKER_SECONDS, "no_worker_late", **said), hint("no_worker")
        with place.worker():
            before = results(lab)
            seen = measured(lab, place, "idle", png="curve.png", runs=FEW_RUNS)
            lab.until(lambda: not results(lab) - before, within=3)
            left = len(results(lab) - before)
    assert lab.fact(not left, "results_left", left=left), hint("results")
    # Some that warm the process up may come on top.
    last = seen["samples"][-1]["task"]
    assert lab.fact(last <= MOST_RUNS, "runs_ignored", wanted=FEW_RUNS, seen=last), hint("runs")
    problem = picture_problem(bench.left(lab, "curve.png"))
    assert lab.fact(not problem, "no_picture", problem=problem), hint("picture")


def results(lab):
    """Return the keys of the results in the backend."""
    return set(lab.backend.keys(lab.publisher.result_key.replace("{}", "*")))


def picture_problem(data):
    """Say what keeps this from being a PNG with something on it, "" if nothing does."""
    from PIL import Image

    if not data:
        return "no file"
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            width, height = picture.size
            if min(width, height) < SMALLEST or width * height > MOST_PIXELS:
                return f"{width} x {height}"
            shades = picture.convert("L").getextrema()
    except Exception as error:
        return f"no PNG ({type(error).__name__})"
    return "" if shades[0] != shades[1] else "one colour"
