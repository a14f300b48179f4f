"""The stages of exercise 2_1 one at a time: each is fed by hand with what the one before returned.

Sources are real and drawn from `lab.rng`. What reached the target is read from its file.
"""

from __future__ import annotations

import math
from collections import Counter
from decimal import ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

from grader.check import check, hint
from grader.outcome import dig, told, works_of
from grader.pipeline import REFUSED, assert_patience


def by_hand(works, sources):
    """Feed the sources through extract, validate, transform and aggregate, one call a stage.

    Returns:
        The calls of the first stage that failed, or the aggregation's alone.
    """
    lab, fed = works.lab, list(sources)
    for stage in ("extract_data", "validate_data", "transform_data"):
        calls = lab.calls([(stage, one) for one in fed], within=10)
        if not all(call.reply and call.reply.succeeded for call in calls):
            return calls
        fed = [call.reply.result for call in calls]
    return [lab.call("aggregate_results", fed, within=10)]


def assert_stages(lab, calls):
    """Every one of these stages, called by hand, has succeeded."""
    missing = lab.unregistered([f"{stage}_data" for stage in ("extract", "validate", "transform")])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    for call in calls:
        done = bool(call.reply and call.reply.succeeded)
        assert lab.fact(done, "stage", call=call, seen=told(call)), hint("stage")


def loaded_by_hand(lab, works, sources):
    """Feed the sources through the five stages; return the aggregation and the target's rows."""
    calls = by_hand(works, sources)
    assert_stages(lab, calls)
    aggregation = calls[-1].reply.result
    assert_stages(lab, [lab.call("load_data", aggregation, within=10)])
    return aggregation, works.rows({source["name"] for source in sources})


@check
def test_reads_every_source(lab):
    """The stages bring every record of a database, a paging API and a CSV file into the target."""
    works = works_of(lab)
    assert_read(lab, works, works.three())


@check(after=test_reads_every_source)
def test_reads_unusual_sources(lab):
    """A byte order mark, a query, a full, an empty and a slow page, many pages: all is read."""
    works = works_of(lab)
    slow, _ = works.api(slow=2)
    sources = [
        slow,  # first: the others are read meanwhile
        works.csv(mark=True),
        works.api(works.records(23), query={"team": "7", "full": "yes"})[0],
        works.api(works.records(10))[0],  # its last page is full
        works.api(works.records(12), bare=2)[0],  # a page without records is not the last
        works.api(works.records(1))[0],
        works.api(works.records(30), size=1)[0],
        works.database(works.records(1500)),
    ]
    assert_read(lab, works, sources)


def assert_read(lab, works, sources):
    """The stages, one after another, bring each record of these sources into the target once."""
    calls = by_hand(works, sources)
    assert_patience(*taken(works, sources))
    assert_stages(lab, calls)
    assert_stages(lab, [lab.call("load_data", calls[-1].reply.result, within=10)])
    rows = works.rows({source["name"] for source in sources})

    for source in sources:
        seen = Counter(str(id) for _, name, id, *_ in rows if name == source["name"])
        wanted = Counter(str(id) for id, _ in works.records_of[source["name"]])
        said = {"source": source, "wanted": wanted.total(), "seen": seen.total()}
        said |= {"missing": sorted(wanted - seen)[:3], "extra": sorted(seen - wanted)[:3]}
        assert lab.fact(seen == wanted, "source_rows", **said), hint(source["type"])


def taken(works, sources):
    """Return for how many seconds each request for a page waited for its answer."""
    pages = [r for source in sources for r in works.api_service.requests(source["name"])]
    return [page.ended - page.heard for page in pages if page.ended and page.heard]


@check(after=test_reads_every_source)
def test_drops_invalid_records(lab):
    """Records without an id or without a finite number, and ids that come again, are dropped."""
    works, n = works_of(lab), lab.rng.randint(100, 999)
    # (id, value) and what is loaded of it: the value, None if the record is invalid.
    any_kind = [
        ((f" {n} ", "3.5"), 3.5),
        ((f"{n}", 9), None),
        ((n, 8), None),  # the same id as a number
        ((f"0{n}", 7), 7.0),
        ((n + 1, "abc"), None),
        ((n + 1, 4), 4.0),
        ((n + 1, 5), None),
        ((n + 2, ""), None),
        ((n + 3, "1e3"), 1000.0),
        (("", 1), None),
        (("   ", 1), None),
        ((n + 4, -0.25), -0.25),
        ((0, 1), 1.0),
        ((f"é {n}", " 8 "), 8.0),
        ((f"É {n}", 6), 6.0),
        ((f"é{n}", 2), 2.0),
    ]
    in_database = [((None, 1), None), ((n + 5, None), None), ((n + 6, 9e999), None)]
    in_csv = [((n + 5, "nan"), None), ((n + 6, "-inf"), None), ((n + 7, "0"), 0.0)]
    in_api = [((None, 1), None), ((..., 2), None), ((n + 5, ...), None), ((n + 6, None), None)]
    in_api += [((n + 7, True), None), ((n + 8, False), None), ((n + 9, [1]), None)]
    in_api += [((n + 7, 0), 0.0)]
    tables = [any_kind + in_database, any_kind + in_csv, any_kind + in_api]
    records = [[record for record, _ in table] for table in tables]
    sources = [works.database(records[0]), works.csv(records[1]), works.api(records[2])[0]]

    aggregation, rows = loaded_by_hand(lab, works, sources)

    for source, table in zip(sources, tables, strict=True):
        mine = {str(id): value for _, name, id, value, _ in rows if name == source["name"]}
        for (id, value), wanted in table:
            assert_record(lab, source, id, value, wanted, mine, table)
        invalid = sum(wanted is None for _, wanted in table)
        counts = dig(aggregation, "sources", source["name"])
        want = {"count": len(table) - invalid, "invalid_count": invalid}
        seen = {key: counts.get(key) for key in want}
        assert lab.fact(seen == want, "counts", name=source["name"], wanted=want, seen=seen)


def assert_record(lab, source, id, value, wanted, mine, table):
    """One record is in the target with its value, or is not there, as its table says."""
    key = "" if id in (None, ...) else str(id).strip()
    taken = [want for (other, _), want in table if str(other).strip() == key and want is not None]
    said = {"record": {"id": id, "value": value}, "source": source}
    if wanted is None:
        gone = key not in mine if not taken else mine.get(key) == taken[0]
        named = hint("twice" if taken else "accepted")
        assert lab.fact(gone, "invalid", seen=mine.get(key), **said), named
    else:
        found = mine.get(key)
        assert lab.fact(found == wanted, "valid", wanted=wanted, seen=found, **said), hint("lost")


def exactly(text, rounding=ROUND_HALF_EVEN):
    """Return an amount in cents."""
    return int((Decimal(text) * 100).quantize(Decimal(1), rounding))


# Ways to get other cents out of some values; the check draws a few that show each of them.
MISTAKES = (
    lambda text: round(float(text) * 100),
    lambda text: int(float(text) * 100),
    lambda text: int(float(text) * 100 + 0.5),
    lambda text: round(round(float(text), 2) * 100),
    lambda text: round(Decimal(float(text)) * 100),
    lambda text: exactly(text, ROUND_HALF_UP),
    lambda text: exactly(text, ROUND_HALF_DOWN),
)


def telling(rng):
    """Draw amounts that the mistakes get wrong, and a few that are odd in another way."""
    amounts = [f"{whole}.{part:03d}" for whole in range(10) for part in range(5, 1000, 10)]
    drawn = {"0.125", "-0.125", "2.675", "0.375", "12345678.9", "-3", "1e-3", "1.0250000001"}
    for mistake in MISTAKES:
        shown = [text for text in amounts if mistake(text) != exactly(text)]
        drawn.update(rng.sample(shown, 2))
    return sorted(drawn)


@check(after=test_reads_every_source)
def test_gives_final_form(lab):
    """A loaded record has its id as text, its value, and exact cents, rounded half-even."""
    works, texts = works_of(lab), telling(lab.rng)
    # No id twice: whether the same one of another source counts is another criterion's question.
    as_text = [(f"{place:03d}", text) for place, text in enumerate(texts)]
    as_number = [(f"0{id}", float(text)) for id, text in as_text]
    wanted = {id: (float(text), exactly(str(text))) for id, text in [*as_text, *as_number]}
    sources = [works.database(as_number), works.csv(as_text)]

    _, rows = loaded_by_hand(lab, works, sources)

    assert lab.fact(rows, "form_missing", wanted=len(wanted))
    odd = [id for *_, id, _, _ in rows if not isinstance(id, str) or id not in wanted]
    assert lab.fact(not odd, "form_id", wanted=sorted(wanted)[:3], seen=odd[:3]), hint("id_type")
    for _, _, id, value, cents in rows:
        want = wanted[id]
        said = {"id": id, "wanted": want, "seen": (value, cents)}
        whole = isinstance(cents, int)  # 102.0 equals 102 and is none
        assert lab.fact(whole and (value, cents) == want, "form", **said), hint("cents")
    assert lab.fact(len(rows) == len(wanted), "form_missing", wanted=len(wanted))


@check(after=test_reads_every_source)
def test_aggregates(lab):
    """aggregate_results counts records and sources and sums the sources up."""
    works = works_of(lab)
    sizes = [3, 4, lab.rng.choice((9, 12, 15))]  # their average is no whole number
    lab.rng.shuffle(sizes)
    bad = lab.rng.sample(range(20, 30), 3)  # more than there are valid ones
    sources = [
        works.database(works.records(size) + [("no number", "abc")] * more)
        for size, more in zip(sizes, bad, strict=True)
    ]

    calls = by_hand(works, sources)

    assert_stages(lab, calls)
    seen = calls[0].reply.result
    seen = seen if isinstance(seen, dict) else {}
    pairs = [
        ("total_records", sum(sizes), seen.get("total_records")),
        ("source_count", 3, seen.get("source_count")),
        ("summary.max", max(sizes), dig(seen, "summary").get("max")),
        ("summary.min", min(sizes), dig(seen, "summary").get("min")),
    ]
    for source, size, more in zip(sources, sizes, bad, strict=True):
        counts = dig(seen, "sources", source["name"])
        pairs.append((f"sources.{source['name']}.count", size, counts.get("count")))
        pairs.append((f"sources.{source['name']}.invalid_count", more, counts.get("invalid_count")))
    for key, want, found in pairs:
        assert lab.fact(found == want, "summary", place=key, wanted=want, seen=found)
    average = dig(seen, "summary").get("average")
    close = isinstance(average, int | float) and math.isclose(average, sum(sizes) / 3, rel_tol=1e-3)
    said = {"place": "summary.average", "wanted": sum(sizes) / 3, "seen": average}
    assert lab.fact(close, "summary", **said), hint("average")


@check(after=test_reads_every_source)
def test_load_is_repeatable(lab):
    """The same aggregation loaded again adds nothing; another run of the sources adds its rows."""
    works = works_of(lab)
    sources = [works.database(), works.csv()]
    names = {source["name"] for source in sources}

    aggregation, once = loaded_by_hand(lab, works, sources)
    _, other = loaded_by_hand(lab, works, sources)
    lab.restart_worker()  # what a process remembers is no proof of a load
    assert_stages(lab, [lab.call("load_data", aggregation, within=10)])
    again = works.rows(names)

    said = {"wanted": 2 * len(once), "seen": len(other)}
    assert lab.fact(len(other) == 2 * len(once), "other_run", **said), hint("other_run")
    runs = Counter(str(row[0]) for row in other)
    said = {"wanted": [len(once)] * 2, "seen": sorted(runs.values())}
    assert lab.fact(sorted(runs.values()) == [len(once)] * 2, "run_ids", **said), hint("run_ids")
    said = {"first": len(other), "seen": len(again)}
    assert lab.fact(len(again) == len(other), "again", **said), hint("twice")
    assert_repeatable_in_another_table(lab, works)


def assert_repeatable_in_another_table(lab, works):
    """The same holds in a table that was there before, with constraints of its own and no key."""
    source = works.database(works.records(30))
    calls = by_hand(works, [source])
    assert_stages(lab, calls)
    lab.restart_worker()  # nobody has the target open while it is changed
    works.refuse(REFUSED)
    counts = []
    for _ in range(2):
        assert_stages(lab, [lab.call("load_data", calls[-1].reply.result, within=10)])
        counts.append(len(works.rows({source["name"]})))

    said = {"wanted": 30, "seen": counts[0]}
    assert lab.fact(counts[0] == 30, "other_table", **said), hint("other_table")
    said = {"first": counts[0], "seen": counts[1]}
    assert lab.fact(counts[1] == counts[0], "again_elsewhere", **said), hint("other_table")
