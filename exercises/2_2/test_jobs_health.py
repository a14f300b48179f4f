"""system_health_check of exercise 2_2: with readings of the lab's, and with components down."""

from __future__ import annotations

from grader import ops
from grader.check import check, hint

COMPONENTS = ("database", "redis", "broker", "disk", "cpu", "memory")
# What can be slow: a query or a ping that took its time may be a warning, on a busy machine.
TIMED = ("database", "redis", "broker")
LEVELS = ("healthy", "warning", "critical")
PATIENT = 15.0


def health(lab, **readings):
    """Ask for a health check with these readings: percentages, 10 if not given."""
    values = {"disk": 10.0, "memory": 10.0, "cpu": 10.0, **readings}
    with ops.stage(lab, folder=str(lab.data / "reports"), **values):
        return lab.call("system_health_check", within=PATIENT)


def statuses(call):
    """Return each component's status."""
    checks = ops.result(call).get("checks")
    found = checks if isinstance(checks, dict) else {}
    rows = {name: found.get(name) for name in COMPONENTS}
    # What is no object has no status, whatever it says.
    return {
        name: row.get("status") if isinstance(row, dict) else f'{row!r} != {{"status": ...}}'
        for name, row in rows.items()
    }


def compare_health(lab, call, mistake="default", given="", **wanted):
    """Compare a health check with what it should find: every other component is up."""
    assert ops.succeeded(lab, call), hint("raised")
    seen, said = statuses(call), {"given": given or "all readings at 10 percent"}
    for name in COMPONENTS:
        fine = LEVELS[:2] if name in TIMED else LEVELS[:1]
        may = (wanted[name],) if name in wanted else fine
        row = {"what": name, "wanted": " / ".join(may), "seen": seen[name], **said}
        named = "default" if mistake == "limits" and name not in wanted else mistake
        assert lab.fact(seen[name] in may, "health", **row), hint(named)
    worst = max(seen.values(), key=LEVELS.index)
    overall = ops.result(call).get("overall_status")
    row = {"what": "overall_status", "wanted": worst, "seen": overall, **said}
    assert lab.fact(overall == worst, "health", **row), hint("worst")
    advice = ops.result(call).get("recommendations")
    good = isinstance(advice, list) and all(isinstance(text, str) for text in advice)
    assert lab.fact(good, "recommendations", seen=repr(advice)[:200])


@check
def test_health_levels(lab):
    """The health check's levels: disk and memory from 80 and 90 percent, cpu from 90."""
    assert ops.registered(lab, "system_health_check"), hint("named")
    ops.database(lab)
    compare_health(lab, health(lab))
    steps = [{"disk": (79.9, 0)}, {"disk": (80.0, 1)}, {"disk": (89.9, 1)}, {"disk": (90.0, 2)}]
    steps += [{"memory": (79.9, 0)}, {"memory": (80.0, 1)}, {"memory": (89.9, 1)}]
    steps += [{"memory": (90.0, 2)}, {"cpu": (89.9, 0)}, {"cpu": (90.0, 1)}, {"cpu": (100.0, 1)}]
    # The worst comes last once, and first once.
    steps += [{"disk": (80.0, 1), "memory": (90.0, 2)}, {"disk": (90.0, 2), "cpu": (90.0, 1)}]
    for step in steps:
        call = health(lab, **{name: percent for name, (percent, _) in step.items()})
        given = ", ".join(f"{name} {percent} percent" for name, (percent, _) in step.items())
        wanted = {name: LEVELS[rank] for name, (_, rank) in step.items()}
        compare_health(lab, call, "limits", given, **wanted)


def compare_error(lab, call, name):
    """A component that is down says why."""
    row = ops.result(call)["checks"][name]
    said = {"what": name, "seen": repr(row)[:200]}
    assert lab.fact(bool(row.get("error")), "health_error", **said)


@check(after=test_health_levels)
def test_health_redis_down(lab):
    """With its Redis down the health check says critical and why; later it is healthy again."""
    ops.database(lab)
    server = lab.redis["ops"]
    server.down()
    try:
        call = health(lab)
    finally:
        server.up()

    compare_health(lab, call, "down", "LAB_REDIS_URL down", redis="critical")
    compare_error(lab, call, "redis")
    compare_health(lab, health(lab), "stays_down", "LAB_REDIS_URL up again")


@check(after=test_health_levels)
def test_health_database_missing(lab):
    """With the database file missing the health check says critical, and makes no new file."""
    path = ops.database(lab)
    path.unlink()

    call = health(lab)
    made = path.exists()

    ops.database(lab)
    compare_health(lab, call, "missing", "no file at LAB_OPS_DB", database="critical")
    compare_error(lab, call, "database")
    assert lab.fact(not made, "file_made", path=path.name), hint("missing")
