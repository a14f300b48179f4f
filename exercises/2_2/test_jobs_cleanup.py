"""cleanup_old_data of exercise 2_2: rows on both sides of the cutoff, and a writer beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from grader import files, ops
from grader.check import check, hint
from grader.expect import fails_with
from grader.files import lock, writable
from grader.target import RESERVED_BYTE

PATIENT = 15.0
BAD = (True, False, "30", 2.5, 30.0, -1, None, [], {})


def around(lab, cutoff):
    """Draw instants on both sides of a cutoff, in no order: an id says nothing about an age."""
    rng = lab.rng
    older = [cutoff - ops.SECOND, cutoff - ops.SECOND / 4, cutoff - ops.DAY * rng.randint(1, 300)]
    # Written in another zone, each of these has a date that belongs to the other side.
    older += [cutoff - timedelta(hours=rng.randint(1, 7)) for _ in range(rng.randint(4, 9))]
    newer = [cutoff, cutoff, cutoff, cutoff, cutoff + ops.SECOND / 4, cutoff + ops.SECOND]
    newer += [cutoff + timedelta(hours=rng.randint(1, 12)) for _ in range(rng.randint(4, 9))]
    return rng.sample([*older, *newer], len(older) + len(newer))


@check
def test_cleanup_by_age(lab):
    """cleanup_old_data deletes what is older than the cutoff, and nothing that lies on it."""
    assert ops.registered(lab, "cleanup_old_data"), hint("named")
    now = ops.drawn_day(lab, ops.SHANGHAI, lab.rng.randint(1, 12), 28, 7, 30)
    for args in ((), (lab.rng.randint(1, 9),), (0,)):
        cutoff = now - ops.DAY * (args[0] if args else 30)
        rows = {table: around(lab, cutoff) for table in ops.EXPENDABLE}
        ops.database(lab, **{t: ops.times(lab, instants) for t, instants in rows.items()})
        wanted = {t: sum(at < cutoff for at in instants) for t, instants in rows.items()}

        with ops.stage(lab, now=now, moves=False):
            call = lab.call("cleanup_old_data", *args)

        assert ops.succeeded(lab, call)
        for table, instants in rows.items():
            ids = ops.kept(lab, table)
            stay = {number for number, at in enumerate(instants, 1) if at >= cutoff}
            said = {"call": call, "table": table, "cutoff": cutoff.isoformat()}
            for wrong, mistake in ((stay - ids, "too_much"), (ids - stay, "too_little")):
                row = stated(rows[table], wrong)
                mistake = "on_the_cutoff" if row == cutoff.isoformat() else mistake
                assert lab.fact(not wrong, mistake, row=row, **said), hint(mistake)
        answer = ops.result(call)
        for what, value in (("deleted", wanted), ("total_deleted", sum(wanted.values()))):
            assert ops.is_value(lab, call, what, answer.get(what), value, now)
        right = ops.at_instant(answer.get("cutoff")) == cutoff
        said = {"what": "cutoff", "wanted": cutoff.isoformat(), "seen": answer.get("cutoff")}
        assert lab.fact(right, "value", call=call, now=now.isoformat(), **said)


def stated(instants, ids):
    """Return the time of the first of these rows, "" if there is none."""
    return instants[min(ids) - 1].isoformat() if ids else ""


@check(after=test_cleanup_by_age)
def test_cleanup_refuses(lab):
    """cleanup_old_data refuses what is no int of 0 or more, and deletes nothing then."""
    old = [datetime(2020, 1, 1, tzinfo=UTC)] * 3
    ops.database(lab, **{table: ops.times(lab, old) for table in ops.EXPENDABLE})

    calls = lab.calls([("cleanup_old_data", bad) for bad in BAD])

    for call in calls:
        assert call == fails_with("ValueError"), hint("accepts")
    for table in ops.EXPENDABLE:
        said = {"table": table, "wanted": 3, "seen": len(ops.kept(lab, table))}
        assert lab.fact(said["seen"] == 3, "rows_left", **said)


def header(path):
    """Return a database's count of write transactions, None in the WAL mode, which keeps none.

    Bytes 24 to 27 of an SQLite file count the transactions that changed it; 18 is the mode.
    """
    head = (files.content(path) or b"")[:100]
    return None if head[18:19] in (b"", b"\2") else int.from_bytes(head[24:28], "big")


@check(after=test_cleanup_by_age)
def test_cleanup_in_batches(lab):
    """cleanup_old_data deletes at most 1000 rows in one transaction."""
    # One row beyond full batches: whoever takes more than a thousand rows at once, be it one more,
    # or a thousand of each table, needs a transaction less.
    counts = {"audit_logs": 1000 * lab.rng.randint(1, 2) + 1, "temp_files": 2000}
    old, count = ("2020-01-01T00:00:00Z",), sum(counts.values())
    path = ops.database(lab, **{table: [old] * rows for table, rows in counts.items()})
    before = header(path)

    call = lab.call("cleanup_old_data", 30, within=20)

    assert ops.succeeded(lab, call)
    assert ops.is_value(
        lab, call, "total_deleted", ops.result(call).get("total_deleted"), count, ops.before_now()
    )
    after = header(path)
    assert lab.fact(after is not None, "wal", seen="WAL"), hint("wal")
    wanted = -(-count // 1000)
    said = {"rows": count, "wanted": wanted, "seen": after - before}
    assert lab.fact(after - before >= wanted, "batches", **said), hint("one_transaction")


@check(after=test_cleanup_by_age)
def test_cleanup_waits_its_turn(lab):
    """cleanup_old_data waits while another writer holds the database for two seconds."""
    path = ops.database(lab, audit_logs=[("2020-01-01T00:00:00Z",)] * 5)

    with writable(path) as file:
        lock(file, RESERVED_BYTE, path.name)
        call = lab.send("cleanup_old_data", 30, within=PATIENT)
        lab.until(lambda: not lab.publisher.fetch([call]), within=2)
    lab.finish([call])

    assert ops.succeeded(lab, call), hint("locked")
    assert ops.is_value(
        lab, call, "total_deleted", ops.result(call).get("total_deleted"), 5, ops.before_now()
    )
