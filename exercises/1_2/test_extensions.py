"""The extension challenges of exercise 1_2 that are functions: trigonometry, batch."""

from __future__ import annotations

import math

from grader.check import check, hint
from grader.expect import fails_with, returns

ITEMS = 8


@check
def test_trigonometry(lab):
    """Challenge 1: sin, cos and tan take radians, or degrees when asked."""
    x, d = round(lab.rng.uniform(0.1, 1.4), 6), lab.rng.randint(1, 44)
    rows = [((name, x), getattr(math, name)(x)) for name in ("sin", "cos", "tan")]
    rows += [((name, -x, "radians"), getattr(math, name)(-x)) for name in ("sin", "cos", "tan")]
    for name in ("sin", "cos", "tan"):
        rows.append(((name, d, "degrees"), getattr(math, name)(math.radians(d))))
    rows += [(("sin", 30, "degrees"), 0.5), (("cos", 60, "degrees"), 0.5)]
    rows += [(("tan", 45, "degrees"), 1.0), (("cos", 0), 1.0)]

    for call, (_, value) in zip(lab.calls([row for row, _ in rows]), rows, strict=True):
        assert call == returns(value, rel=1e-12), hint("units")


@check(after=test_trigonometry)
def test_trigonometry_refusals(lab):
    """Challenge 1: tan of 90 degrees and an unknown unit are a ValueError."""
    unit = "".join(lab.rng.choices("bcdfghjk", k=5))
    turns = lab.rng.randint(-3, 3) * 180

    for call in lab.calls([("tan", angle, "degrees") for angle in (90, -90, 270, 90 + turns)]):
        assert call == fails_with("ValueError"), hint("tan_of_90")
    for call in lab.calls([(name, 1, unit) for name in ("sin", "cos", "tan")]):
        assert call == fails_with("ValueError")


def items_of(lab, count=ITEMS):
    """Draw a batch of good items."""
    return [
        {"operation": "add", "args": [lab.rng.randint(1, 999), lab.rng.randint(1, 999)]}
        for _ in range(count)
    ]


@check
def test_batch_results(lab):
    """Challenge 4: calculate_batch answers in order, and one bad item spoils no other."""
    items = items_of(lab)
    wanted = [{"ok": True, "result": float(sum(item["args"]))} for item in items]
    items[2] = {"operation": "divide", "args": [1, 0]}
    items[5] = {"operation": "sqrt", "args": [-4]}
    # These two may fail before they are sent.
    items[3] = {"operation": "add", "args": [lab.rng.randint(1, 999)]}
    items[6] = {"operation": "".join(lab.rng.choices("bcdfghjk", k=6)), "args": [1, 2]}

    for given, want in (([], []), (items[:1], wanted[:1])):
        answer = lab.client.call("calculate_batch", given)
        said = {"items": given, "wanted": want, "seen": answer.error or answer.value}
        assert lab.fact(answer.value == want and not answer.error, "batch_shape", **said)

    answer = lab.client.call("calculate_batch", items)
    rows = answer.value if isinstance(answer.value, list) else []
    count = {"items": len(items), "seen": answer.error or len(rows)}
    assert lab.fact(len(rows) == len(items), "batch_length", **count), hint("unsent")
    for place, (row, want) in enumerate(zip(rows, wanted, strict=True)):
        bad = {2: "ZeroDivisionError", 5: "ValueError", 3: "", 6: ""}.get(place)
        said = {"item": items[place], "place": place + 1, "seen": row}
        if bad is not None:
            said["error"] = f"{bad or 'Type'}: "
            assert lab.fact(is_error(row, bad), "batch_error", **said), hint("spoiled")
        else:
            assert lab.fact(row == want, "batch_item", wanted=want, **said), hint("spoiled")


def is_error(row, kind):
    """Whether this is a batch's answer for an item that failed with that type, or with any."""
    text = row.get("error") if isinstance(row, dict) else None
    if not isinstance(text, str) or row.get("ok") is not False:
        return False
    name, colon, _ = text.partition(":")
    return name == kind if kind else bool(colon)


@check(after=test_batch_results)
def test_batch_in_parallel(lab):
    """Challenge 4: the items of a batch are calculated in parallel, not one after the other."""
    items, before = items_of(lab), len(lab.history.messages)

    def published():
        return len(lab.history.messages) - before

    with lab.tapped():
        with lab.frozen():
            lab.client.start("call", function="calculate_batch", args=[items], kwargs={})
            lab.until(lambda: published() >= ITEMS, within=3)
            seen = published()
        answer = lab.client.answer()

    said = {"items": ITEMS, "seen": seen}
    assert lab.fact(seen >= 2, "batch_published", **said), hint("one_message")
    rows = answer.value if isinstance(answer.value, list) else []
    said = {"items": ITEMS, "seen": answer.error or len(rows)}
    assert lab.fact(len(rows) == ITEMS, "batch_length", **said)
