"""The sources that a pipeline reads, and what of a pipeline's history can be judged without it."""

from __future__ import annotations

import contextlib
import csv
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from grader.errors import LabFault
from grader.pipeline import PATIENCE_SECONDS, assert_patience
from grader.process import wait_until
from grader.services.http import HttpService, Request, delay, hold, ok
from grader.services.sources import (
    SLOW_SECONDS,
    Pages,
    write_corrupt_database,
    write_csv,
    write_database,
)
from grader.steps import Step, ancestors, matched, quiet, spans, steps

RECORDS = [(n, n / 2) for n in range(12)]


@pytest.fixture
def service():
    """A service on loopback."""
    with HttpService() as running:
        yield running


def get(service, key, **query):
    return requests.get(service.address(key), params=query, timeout=10)


def pages_of(service, key, **query):
    """Follow `next` from page 1 and return the records of each page."""
    page, found = 1, []
    while page:
        body = get(service, key, page=page, **query).json()
        found.append([(row.get("id", ...), row.get("value", ...)) for row in body["records"]])
        page = body["next"]
    return found


def test_a_database_holds_any_type(tmp_path):
    """What is written into an SQLite source comes out with its own types."""
    records = [(1, 2.5), (" 1 ", "x"), (None, None)]
    write_database(tmp_path / "a.db", records)

    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as database:
        assert database.execute("SELECT id, value FROM records").fetchall() == records


def test_a_corrupt_database_is_refused_by_sqlite(tmp_path):
    """A corrupt database has the right beginning and can't be read."""
    write_corrupt_database(tmp_path / "a.db")

    with (
        contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as database,
        pytest.raises(sqlite3.DatabaseError),
    ):
        database.execute("SELECT id FROM records")


@pytest.mark.parametrize("mark", [True, False])
def test_a_csv_file_may_have_a_byte_order_mark(tmp_path, mark):
    """The mark is there if it is asked for, and the rows are the same either way."""
    write_csv(tmp_path / "a.csv", [(1, 2.5), (None, "x")], mark)

    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbf") is mark
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == [["id", "value"], ["1", "2.5"], ["", "x"]]


@pytest.mark.parametrize(("size", "lengths"), [(5, [5, 5, 2]), (6, [6, 6]), (50, [12])])
def test_pages_follow_each_other(service, size, lengths):
    """All records come, in pages of the size, and the last page says so."""
    service.rule("a", Pages(RECORDS, size=size))

    found = pages_of(service, "a")

    assert [len(page) for page in found] == lengths
    assert [record for page in found for record in page] == RECORDS


def test_a_bare_page_stands_between_the_others(service):
    """A page without records is in the middle, and nothing of what follows is lost."""
    service.rule("a", Pages(RECORDS, size=5, bare=2))

    pages = pages_of(service, "a")

    assert [len(page) for page in pages][:3] == [5, 0, len(RECORDS[5:10])]
    assert sum(map(len, pages)) == len(RECORDS)


def test_an_empty_source_has_one_page(service):
    """A source without records answers page 1 with none."""
    service.rule("a", Pages([]))

    assert pages_of(service, "a") == [[]]


def test_a_key_can_be_left_out(service):
    """`...` in a record means that its key is not there, None that it is null."""
    service.rule("a", Pages([(..., 1), (2, None)]))

    assert get(service, "a", page=1).json()["records"] == [{"value": 1}, {"id": 2, "value": None}]


@pytest.mark.parametrize("query", [{"page": 1}, {"team": "7"}, {"page": 9, "team": "7"}])
def test_a_wrong_query_is_refused(service, query):
    """Without its own query, without a page or beyond the last page the answer is 400."""
    service.rule("a", Pages(RECORDS, query={"team": "7"}))

    assert get(service, "a", **query).status_code == 400
    assert len(pages_of(service, "a", team="7")) == 2


def test_a_broken_page_is_a_500(service):
    """The page that is to break is answered with 500, the one before it is not."""
    service.rule("a", Pages(RECORDS, size=5, broken=2))

    assert [get(service, "a", page=page).status_code for page in (1, 2)] == [200, 500]


def test_a_held_page_comes_when_it_is_released(service):
    """A page is held back until release(), which tells for how long."""
    pages = Pages(RECORDS, size=5, held=2)
    service.rule("a", pages)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(get, service, "a", page=2)
        wait_until(lambda: service.requests("a"), 10, AssertionError)
        assert service.requests("a")[0].answered is None

        held = pages.release()

        assert answer.result(10).status_code == 200
    assert 0 < held < 10


def test_a_slow_page_comes_late():
    """A slow page is answered as the others are, but so many seconds later."""
    request = Request(0.0, "GET", "/jobs/a?page=2", "a", {})
    swift, slow = Pages(RECORDS, size=5)(request), Pages(RECORDS, size=5, slow=2)(request)

    assert slow == delay(SLOW_SECONDS, swift) != swift
    assert SLOW_SECONDS < PATIENCE_SECONDS


def test_a_held_answer_notes_a_client_that_leaves(service):
    """Who hangs up while an answer is held back is logged as such."""
    free = threading.Event()
    service.script("a", then=hold(ok(), free.is_set))

    with pytest.raises(requests.Timeout):
        requests.get(service.address("a"), timeout=0.2)

    wait_until(lambda: service.requests("a")[0].answered == "hung up", 10, AssertionError)


def test_a_rule_may_leave_the_answer_to_a_script(service):
    """Where a rule returns None the scripts answer."""
    service.script("a", then=ok(value="script"))
    service.rule("a", lambda request: ok(value="rule") if "page=1" in request.path else None)

    assert get(service, "a", page=1).json()["value"] == "rule"
    assert get(service, "a", page=2).json()["value"] == "script"


def test_moments_are_matched_to_spans():
    """Each span takes one moment at most, and as many as can be are placed."""
    assert matched([1, 2, 3], [(0, 9)]) == 1
    assert matched([1, 2, 3], [(0, 9), (0, 9), (2.5, 4)]) == 3
    assert matched([5], [(0, 4)]) == 0
    assert matched([1, 2], [(0, 3), (1.5, 2.5)]) == 2


def test_a_task_that_came_again_has_a_span_for_each_time():
    """Each reception begins a span; the next one, or the end, ends it."""
    step = Step("a", received=[1.0, 4.0], ended={"task-succeeded": 6.0})

    assert spans(step) == [(1.0, 4.0), (4.0, 6.0)]
    assert spans(Step("b", received=[1.0])) == [(1.0, float("inf"))]
    assert spans(Step("c")) == []


def test_ancestors_end_at_the_first_task():
    """Ancestors are followed to a task without a known parent, also around a circle."""
    steps = {id: Step(id, parent=parent) for id, parent in [("a", None), ("b", "a"), ("c", "b")]}
    circle = {"x": Step("x", parent="y"), "y": Step("y", parent="x")}

    assert [step.id for step in ancestors(steps["c"], steps)] == ["b", "a"]
    assert ancestors(steps["a"], steps) == []
    assert len(ancestors(circle["x"], circle)) <= len(circle)


def test_what_was_held_too_long_proves_nothing():
    """Beyond the time that a submission must be patient, the lab is at fault."""
    assert_patience(0.1, 4.9)
    with pytest.raises(LabFault):
        assert_patience(0.1, 5.1)


def event(kind, id="a", **more):
    return {"type": f"task-{kind}", "uuid": id, "timestamp": 1.0, **more}


def test_all_is_quiet_when_every_task_has_ended():
    """A task that was given back and received again is under way until it ends again."""
    events = [event("received"), event("started"), event("succeeded")]

    assert quiet([]) and quiet(events)
    assert not quiet(events[:2])
    assert not quiet([*events, event("received")])
    assert quiet([*events, event("received"), event("succeeded")])
    assert not quiet([*events, event("received", "b"), event("retried", "b")])


def test_a_killed_workers_last_task_does_not_disturb_for_ever():
    """What a worker began that is gone by now counts no more: it never told of the end."""
    begun = [{"type": "task-received", "uuid": "a", "timestamp": 5.0}]

    assert not quiet(begun)
    assert quiet(begun, since=6.0)


@pytest.mark.parametrize("stamp", ["soon", None, [], 10**400, float("nan")])
def test_a_forged_time_is_none(stamp):
    """An event with a time that is no number counts as one of long ago, and disturbs nobody."""
    forged = [{"type": "task-started", "uuid": "a", "timestamp": stamp}]

    assert steps(forged)["a"].starts == [0.0]
    assert quiet(forged, since=1.0)


def test_a_task_keeps_the_parent_of_its_first_start():
    """A workflow that ends under the id of its own first task was led to by nobody."""
    events = [
        {**event("received", name="m.end", parent_id="load"), "timestamp": 9.0},
        {**event("received", name="m.start"), "timestamp": 2.0},
    ]

    (step,) = steps(events).values()

    assert step.parent is None


def test_a_replaced_task_keeps_its_parent_and_has_two_names():
    """The events of a task that replaced itself make one step."""
    events = [
        event("received", name="m.one", parent_id="p"),
        event("started"),
        event("received", name="m.two", parent_id="a"),
        event("succeeded"),
        {"type": "worker-heartbeat"},
    ]

    (step,) = steps(events).values()

    assert (step.names, step.parent, step.succeeded) == (["one", "two"], "p", 1.0)
