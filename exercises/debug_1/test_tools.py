"""The instruments of exercise debug_1, tried on tasks whose appetite the lab knows."""

from __future__ import annotations

import io

from grader import bench, gauge
from grader.check import check, hint
from grader.curve import sparkline
from grader.expect import Expectation
from grader.growth import alone
from grader.history import HAIL
from grader.words import Text

LEAKS_KIB = (8, 64)
SMALL_LEAK_KIB = 2  # it shows only where the system counts by pages
HELD_KIB, HELD_TIMES = 16, 40
OPENED, BLOCKS = (36, 80), (20, 160)
PARCELS = 60_000  # more than a worker has of any type that the collector knows
NO_WORKER_SECONDS = 15
WARM = 800
# Runs that warm the process up may come on top, and not each run need be a sample.
RUNS = {40: (24, 120), 0: (140, 300)}
RSS_KB = (4_000, 4_000_000)
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


def said_by_diagnose(lab, *args):
    """Call diagnose; return the call, and what it says."""
    call = lab.call("diagnose", *args, within=20)
    assert call == succeeds()
    return call, call.reply.result if isinstance(call.reply.result, dict) else {}


def allocations(seen, most):
    """Whether the allocations are at most so many rows of the right shape."""
    return rows_of(seen.get("allocations"), most, site=is_site, size_kb=number, count=number)


def diagnosis(lab, *args):
    """Call diagnose and return what it says; a wrong shape ends the check."""
    call, seen = said_by_diagnose(lab, *args)
    top = args[0] if args else 10
    collector = seen.get("gc") if isinstance(seen.get("gc"), dict) else {}
    counts = collector.get("counts")
    right = all(
        [
            count(seen.get("pid")),
            number(seen.get("rss_mb")),
            count(seen.get("open_files")),
            rows_of(seen.get("objects"), top, type=lambda v: isinstance(v, str), count=count),
            allocations(seen, top),
            isinstance(collector.get("enabled"), bool),
            isinstance(counts, list) and len(counts) == 3 and all(count(c) for c in counts),
        ]
    )
    assert lab.fact(right, "diagnosis_shape", call=call, seen=call.reply.result)
    return seen


@check
def test_diagnosis(lab):
    """diagnose tells process, memory, open files, objects, allocations, and the collector."""
    planted = bench.plant(lab)
    process = alone(lab, "-I", planted.module)
    seen = diagnosis(lab)
    bench.run(lab, planted, "open_files", 40)
    bench.run(lab, planted, "deliver", PARCELS)
    few = diagnosis(lab, 3)
    pid = gauge.own_pid(process)
    assert lab.fact(seen["pid"] == pid, "diagnosis_pid", wanted=pid, seen=seen["pid"])
    outside = gauge.resident(process)
    said = {"seen": f"{seen['rss_mb']:.1f}", "outside": f"{outside:.1f}"}
    near = 0.5 * outside <= seen["rss_mb"] <= 1.5 * outside
    assert lab.fact(near, "diagnosis_memory", **said)
    said = {"before": seen["open_files"], "after": few["open_files"], "opened": 40}
    least, most = OPENED
    right = least <= said["after"] - said["before"] <= most
    assert lab.fact(right, "diagnosis_files", **said), hint("files")
    parcels = sum(row["count"] for row in few["objects"] if "Parcel" in row["type"])
    right = PARCELS <= parcels <= 1.1 * PARCELS
    assert lab.fact(right, "diagnosis_objects", wanted=PARCELS, seen=few["objects"])
    assert lab.fact(len(few["objects"]) == 3, "diagnosis_top", rows=len(few["objects"]))
    limits = bench.run(lab, planted, "thresholds")[0].reply.result
    other = any(told["gc"]["counts"] != limits for told in (seen, few))
    assert lab.fact(other, "diagnosis_counts", seen=limits), hint("counts")


@check
def test_diagnosis_names_the_site(lab):
    """diagnose names the line of a planted leak, and tells what is new since the previous call."""
    planted = bench.plant(lab)
    alone(lab, "-I", planted.module)
    # The first is not the previous one in the third round.
    for function, other in (("hold", "stash"), ("stash", "hold"), ("hold", "stash")):
        bench.run(lab, planted, function, HELD_KIB, times=HELD_TIMES)
        call, seen = said_by_diagnose(lab)
        right = allocations(seen, float("inf"))  # how many there may be is no matter of this check
        assert lab.fact(right, "diagnosis_shape", call=call, seen=call.reply.result)
        found = seen["allocations"]
        mine, blocks = at(found, planted.module, function)
        not_mine, _ = at(found, planted.module, other)
        wanted = HELD_KIB * HELD_TIMES
        said = {"wanted": wanted, "file": f"{planted.module}.py", "seen": found[:4]}
        right = 0.7 * wanted <= mine <= 1.5 * wanted
        assert lab.fact(right, "site_missing", **said), hint("not_named")
        assert lab.fact(not_mine < wanted / 4, "site_old", **said), hint("since_when")
        right, said["wanted"] = BLOCKS[0] <= blocks <= BLOCKS[1], HELD_TIMES
        assert lab.fact(right, "site_count", **said), hint("count")


def at(found, module, function):
    """Return the KiB, and the blocks, that a diagnosis finds in a planted function."""
    first, last = bench.site(function)
    rows = []
    for row in found:
        file, _, line = row["site"].rpartition(":")
        if file.endswith(f"{module}.py") and first <= int(line) <= last:
            rows.append(row)
    return sum(row["size_kb"] for row in rows), sum(row["count"] for row in rows)


def measured(lab, place, task, *args, **options):
    """Return what debug_memory_leak says of a planted task; a wrong shape ends the check."""
    before = place.driven(task)
    with lab.tapped():
        answer = place.say(task, *args, **options)
    said = {"task": task, "seconds": f"{bench.INSTRUMENT_SECONDS:g}"}
    assert lab.fact(answer, "instrument_silent", **said), hint("slow")
    seen = answer.value
    right = isinstance(seen, dict) and isinstance(seen.get("leaking"), bool)
    right = right and number(seen.get("slope_kb_per_task")) and samples_of(seen.get("samples"))
    said |= {"args": args, "seen": answer.error or seen}
    mistake = "failing" if task == "hold_and_fail" and answer.error else "default"
    assert lab.fact(right, "instrument_shape", **said), hint(mistake)
    driven, last = place.driven(task) - before, seen["samples"][-1]["task"]
    assert lab.fact(driven >= 0.9 * last, "not_driven", task=task, wanted=last, seen=driven)
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
    leaks = (SMALL_LEAK_KIB, *LEAKS_KIB) if gauge.exact() else LEAKS_KIB
    with bench.Bench(lab) as place:
        # What failures leave is collected in steps, and a small leak fills what that gives back.
        for task, kib in [("hold", kib) for kib in leaks] + [("hold_and_fail", 64)]:
            with place.worker():
                seen = measured(lab, place, task, kib)
            slope = seen["slope_kb_per_task"]
            said = said_of(seen, task, kib=kib, leaking=seen["leaking"])
            mistake = hint(
                "uneven" if task != "hold" else "small" if kib == leaks[0] else "default"
            )
            assert lab.fact(seen["leaking"], "leak_missed", **said), mistake
            # What Celery keeps of a failure until it is collected comes on top of the leak.
            near = kib / 2 <= slope and (slope <= kib * 2 or task == "hold_and_fail")
            assert lab.fact(near, "slope_wrong", **said), hint("slope")


@check(after=test_tells_a_leak, lane="bench")
def test_tells_no_leak(lab):
    """debug_memory_leak clears a clean task, a sawtooth, and a cache that fills and stays."""
    with bench.Bench(lab) as place:
        for task, args in (("idle", ()), ("saw", (16,)), ("fill", (8,))):
            with place.worker(warm=WARM):
                seen = measured(lab, place, task, *args)
            said = said_of(seen, task)
            assert lab.fact(not seen["leaking"], "leak_imagined", **said), hint(task)


@check(lane="bench")
def test_instrument_is_tidy(lab):
    """debug_memory_leak draws the curve, leaves no result behind, and says when no worker runs."""
    with bench.Bench(lab) as place:
        nobody_there(lab, place)
        with place.worker():
            before = results(lab)
            seen = {runs: measured(lab, place, "idle", png="curve.png", runs=runs) for runs in RUNS}
            # That failures are driven at all is another check's matter.
            place.say("hold_and_fail", 1, runs=min(filter(None, RUNS)))
            lab.until(lambda: not results(lab) - before, within=3)
            left = len(results(lab) - before)
    assert lab.fact(not left, "results_left", left=left), hint("results")
    for runs, (least, most) in RUNS.items():
        last = seen[runs]["samples"][-1]["task"]
        wanted = runs or 200
        right = least <= last <= most
        assert lab.fact(right, "runs_ignored", wanted=wanted, seen=last), hint("runs")
    kib = [sample["rss_kb"] for told in seen.values() for sample in told["samples"]]
    least, most = RSS_KB
    right = least < min(kib) and max(kib) < most
    assert lab.fact(right, "samples_unit", seen=sorted({min(kib), max(kib)})), hint("unit")
    problem = picture_problem(bench.left(lab, "curve.png"))
    assert lab.fact(not problem, "no_picture", problem=problem), hint("picture")


def nobody_there(lab, place):
    """Hold what it says without a worker against the contract."""
    began = lab.backend.time()
    answer = place.say("idle", within=bench.PATIENCE)
    took = lab.backend.time()[0] - began[0]
    said = {"seen": (answer.error or answer.value) if answer else "-", "seconds": took}
    assert lab.fact(answer, "no_worker_late", **said), hint("no_worker")
    clear = answer.raised("RuntimeError") and not answer.raised("NotImplementedError")
    clear = clear and "\n" not in answer.error
    assert lab.fact(clear, "no_worker", **said), hint("no_worker")
    assert lab.fact(took <= NO_WORKER_SECONDS, "no_worker_late", **said), hint("no_worker")


def results(lab):
    """Return the keys of the results in the backend, those of the lab's own questions apart."""
    key, asked = lab.publisher.result_key, [m.id for m in lab.history.messages if m.task == HAIL]
    own = {key.replace("{}", id).encode() for id in asked}
    return set(lab.backend.keys(key.replace("{}", "*"))) - own


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
