"""What the service of exercise debug_1 promises: true figures, sizes, and results as they were.

Whether released memory goes back to the system is up to the allocator, not to the task. In pieces
of 100 bytes to a MiB, traced or not, a process of Python 3.11 (glibc 2.36) stayed as large as it
was after one call, and not after the next; what was free it used again. But what it told at the end
was in each of 380 calls what it had from outside a moment later, to 0.1 MiB.
So each size comes twice, and judged are: the peak against the process as it began, the end against
what is seen afterwards, and the second peak against the first.
"""

from __future__ import annotations

import math

from grader import gauge, traffic
from grader.check import check, hint
from grader.expect import Expectation, fails_with, returns
from grader.growth import alone
from grader.words import Text

FIGURES = (
    "start_memory_mb",
    "peak_memory_mb",
    "end_memory_mb",
    "memory_increase_mb",
    "data_size_mb",
)
NOT_SIZES = [0, -1, -0.5, 512.5, 10**9, "8", "", None, True, False, math.nan, math.inf, [], {}]
WHOLE, MORE, LEAST_MORE = 5, 5.9, 0.45
# Small pieces weigh more than what is in them: of 100 bytes, traced, 2.6 times as much.
MOST_TIMES, SPARE_MIB = 3, 8


class figures(Expectation):
    """A call that succeeds with the five figures, all of them numbers."""

    def accepts(self, seen):
        """Say whether they are there."""
        result = seen.reply.result if seen.reply and seen.reply.succeeded else None
        return isinstance(result, dict) and all(number(result.get(key)) for key in FIGURES)

    def wanted(self, seen):
        """Name them."""
        return Text.plain(f"{seen}: {', '.join(FIGURES)}")


def number(value):
    """Whether this is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Seen:
    """One call of memory_intensive_task: what it told, and the process from outside.

    Args:
        base: what the process had before its first call, in MiB.
    """

    def __init__(self, lab, process, base, size):
        self.lab, self.base, self.size = lab, base, size
        self.before = gauge.resident(process)
        self.call = lab.call("memory_intensive_task", size, within=20)
        self.after = gauge.resident(process)
        self.highest = gauge.high_water(process)  # 0 where the system does not tell
        assert self.call == figures()
        self.told = self.call.reply.result
        self.start, self.peak, self.end, self.increase = (self.told[key] for key in FIGURES[:4])

    def fact(self, holds, key):
        """Hold a fact against the words of this key."""
        said = {"size": self.size, "seen": self.told, "before": f"{self.before:.1f}"}
        said |= {"after": f"{self.after:.1f}", "highest": f"{self.highest:.1f}"}
        return self.lab.fact(holds, key, **said)

    def judge(self):
        """Hold what one call can show against the contract."""
        size, rise = self.size, self.peak - self.base
        assert self.fact(self.told["data_size_mb"] == size, "figures_size")
        assert self.fact(abs(self.start - self.before) < 16, "figures_start"), hint("unit")
        assert self.fact(rise >= 0.9 * size, "figures_peak"), hint("untouched")
        most = MOST_TIMES * size + SPARE_MIB
        assert self.fact(rise <= most, "figures_large"), hint("large")
        assert self.fact(self.end - self.after <= 0.3 * size, "figures_end"), hint("kept")
        right = abs(self.end - self.start - self.increase) < 0.11
        assert self.fact(right, "figures_increase"), hint("difference")
        true = not self.highest or self.highest >= self.base + 0.9 * size
        assert self.fact(true, "figures_untrue"), hint("untouched")

    def rise_over(self, other):
        """Return by how much the peak lies above another call's, told and seen from outside."""
        return self.peak - other.peak, self.highest - other.highest


def begin(lab):
    """Run small sizes in a fresh process: return it, what it had at first, and the call of 5.9 MiB.

    Last comes whether 5.9 MiB are more than 5. Both use what was free already first, so that only
    their difference is sure; and that is seen only where the system counts by pages.
    """
    process = alone(lab)
    base = gauge.resident(process)
    lab.call("memory_intensive_task", 1)  # what is loaded on first use is loaded now
    whole, more = (Seen(lab, process, base, size) for size in (WHOLE, MORE))
    counts = max(more.rise_over(whole)) >= LEAST_MORE or not gauge.exact()
    return process, base, more, counts


@check
def test_memory_figures(lab):
    """memory_intensive_task touches its pages, gives them back, and tells true figures of both."""
    process, base, more, counts = begin(lab)
    for size in (lab.rng.randint(40, 90), lab.rng.randint(100, 140) + 0.5):
        first = Seen(lab, process, base, size)
        first.judge()
        again = Seen(lab, process, base, size)
        assert again.fact(max(again.rise_over(first)) <= 0.5 * size, "figures_kept"), hint("kept")
        again.judge()
    small = Seen(lab, process, base, WHOLE)  # after the large ones: a peak is that of its own call
    right = small.peak - small.start <= MOST_TIMES * WHOLE + SPARE_MIB
    assert small.fact(right, "figures_own_peak"), hint("lifetime")
    if not counts:  # something else may have given memory back at that moment, but hardly twice
        *_, more, counts = begin(lab)
    assert more.fact(counts, "figures_fraction"), hint("fraction")


@check
def test_memory_sizes(lab):
    """memory_intensive_task takes 0.5 and 512; what is no size up to 512 is a ValueError."""
    for call in lab.calls([("memory_intensive_task", size) for size in (0.5, 512)], within=20):
        assert call == figures()
    for call in lab.calls([("memory_intensive_task", size) for size in NOT_SIZES]):
        wrong = "bool" if isinstance(call.args[0], bool) else "default"
        assert call == fails_with("ValueError"), hint(wrong)
        if call.reply.error_type != "ValueError":  # the backend does not say what it derives from
            kind = called(lab, call)
            said = {"call": call, "seen": call.reply.error_type}
            assert lab.fact(kind, "other_class", **said), hint("class")


def called(lab, call):
    """Whether the task, called as a function, refuses this with a ValueError or one derived."""
    answer = lab.client.call("memory_intensive_task", *call.args)
    # A task need not be a name of the module; then nobody can ask what the class derives from.
    return answer.raised("ValueError") or answer.raised("AttributeError")


@check
def test_results_as_before(lab):
    """Every result and every error of the three tasks is what it was before, to the letter."""
    assert lab.fact(begun(lab), "nothing_written")
    draw = lab.rng
    alone(lab)  # what a call leaves behind is met by the next one
    refused(lab)
    row, record = traffic.row, traffic.record
    mixed = [row(draw), row(draw, "-"), row(draw, currency="USD"), row(draw, "-", currency="JPY")]
    good = [("render_report", mixed), ("process_record", record(draw))]
    good += [("enrich", traffic.user(draw)), ("render_report", [])]
    sent_back = [("process_record", record(draw, lines=traffic.BAD_LINES))]
    good += [*sent_back, ("render_report", mixed)] * 2
    good += [("render_report", mixed * 6), ("process_record", record(draw, attachment=""))]
    odd = [record(draw, lines=traffic.ODD_LINES), record(draw, lines=[])]
    good += [("process_record", each) for each in [*odd, record(draw, attachment=None)]]
    for call in lab.calls(good):
        function = call.task.rpartition(".")[2]
        assert call == returns(traffic.ANSWERS[function](*call.args)), hint("result")


def begun(lab):
    """Whether one of the tasks to write answers: the starter's answers are right, too."""
    tools = lab.calls([("memory_intensive_task", 1), ("diagnose",)], within=20)
    # What a client process says proves nothing here: a submission may answer in its stead.
    return any(call.reply and call.reply.error_type != "NotImplementedError" for call in tools)


def refused(lab):
    """Send what is refused, some of it after a refund was read."""
    draw, refund = lab.rng, traffic.row(lab.rng, "-")
    errors = [
        ("process_record", None, "a record is an object with an id"),
        ("process_record", {"lines": []}, "a record is an object with an id"),
        ("enrich", 17, "17 is no user id"),
        ("enrich", ["u1"], "['u1'] is no user id"),
        ("enrich", "  ", "'  ' is no user id"),
        ("render_report", {}, "rows is a list"),
        ("render_report", [traffic.row(draw), {"name": "x"}], "row 2 has no name or no amount"),
        ("render_report", [traffic.row(draw, currency="XXX")], "no rate for 'XXX'"),
        ("render_report", [refund, {"name": "x"}], "row 2 has no name or no amount"),
        ("render_report", [refund, traffic.row(draw, currency="XXX")], "no rate for 'XXX'"),
    ]
    calls = lab.calls([(function, argument) for function, argument, _ in errors])
    for call, (_, _, message) in zip(calls, errors, strict=True):
        assert call == fails_with("ValueError"), hint("error")
        reply, said = call.reply, {"call": call, "wanted": message}
        same = (reply.error_module, reply.error_type) == ("builtins", "ValueError")
        said["seen"] = f"{reply.error_type}: {reply.error_message}"
        assert lab.fact(same and reply.error_message == message, "other_message", **said), hint(
            "error"
        )
