"""`lab explain`: what is kept of a run, how it is told, and the picture."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from grader.check import Check
from grader.cli.explain import explain_command
from grader.errors import UsageError
from grader.history import Call, History, Message, Reply
from grader.record import Record, last
from grader.report.card import width
from grader.report.picture import draw
from grader.scene import MOST, scene, turn
from grader.story import elsewhere, parts, remark

EVIL = "<script>\x1b[31m\u202e"
STORED = '{"status": "SUCCESS", "date_done": "1970-01-01T00:01:41+00:00"}'


def history():
    """Return a history in which powers had its turn from 100 to 110."""
    found = History("1_2", "redis")
    found.checks = [{"id": "powers", "lane": "", "began": 100.0, "ended": 110.0}]
    found.calls = [
        Call("one", "calculator.power", (2, 3), {}, 100.5, 5, Reply("SUCCESS", 8, raw=STORED)),
        Call("two", f"calculator.{EVIL}", (EVIL,), {}, 101.0),
        Call("late", "calculator.power", (1, 1), {}, 200.0),
    ]
    found.messages = [
        Message("calculator.power", "one", "celery", "json", 0, None, 100.5),
        Message("calculator.power", "one", "celery", "json", 1, "1970-01-01T00:01:45Z", 101.0),
        Message("calculator.other", "sub", "celery", "json", 0, None, 102.0),
    ]
    found.events = [
        {"type": "task-started", "uuid": "one", "timestamp": 100.6, "hostname": "lab@x"},
        {"type": "task-started", "uuid": "one", "timestamp": "soon", "hostname": "lab@x"},
        {"type": "worker-online", "timestamp": 100.1},
    ]
    found.requests = [
        {"service": "flaky", "at": 103.0, "began": 5.0, "ended": 5.5, "answered": 503}
        | {"method": "GET", "path": f"/{EVIL}"}
    ]
    found.faults = [{"kind": "freeze", "at": 104.0, "target": 1}]
    return found


def record_of(verdict="failed", broker="redis"):
    """Return a record of that history."""
    entry = {"id": "powers", "broker": broker, "verdict": verdict}
    return Record({"en": {"criteria": [entry]}}, [scene(history())])


def told(part):
    """Return what is told of a part, a text each."""
    return [moment.words.render("en") for moment in part.moments()]


def test_a_turn_is_noted(monkeypatch):
    """A check's time is in the history even where the check raises."""
    lab = SimpleNamespace(history=History())
    check = Check("it", "It is.", lambda lab: None, (), "beside")

    with pytest.raises(ZeroDivisionError), turn(check, lab):
        1 / 0  # noqa: B018

    (row,) = lab.history.checks
    assert (row["id"], row["lane"]) == ("it", "beside") and row["began"] <= row["ended"]


def test_a_scene_has_what_was_seen_in_a_checks_time():
    """What came before or after is left out; each kind is there."""
    found = scene(history())

    kinds = ("calls", "messages", "events", "requests", "faults")
    assert [len(found[kind]) for kind in kinds] == [2, 3, 1, 1, 1]


def test_a_check_that_was_cut_off_saw_all_that_came_after():
    """A turn without an end lasts to the end of the lab."""
    cut = history()
    cut.checks[0]["ended"] = None

    assert len(scene(cut)["calls"]) == 3


def test_a_scene_is_bounded():
    """Of very many calls the first and the last are kept, and how many were left out is said."""
    many = history()
    many.calls = [Call(str(n), "t.x", ("y" * 9999,), {}, 100 + n / 1000) for n in range(5000)]

    found = scene(many)

    assert len(found["calls"]) == MOST["calls"]
    assert [found["calls"][n]["id"] for n in (0, -1)] == ["0", "4999"]
    assert found["checks"][0]["left_out"] == {"calls": 5000 - MOST["calls"]}
    assert len(str(found)) < 50_000


HOSTILE = [float("nan"), float("inf"), -1, 10**400, "soon", None, [], {}]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_what_strangers_send_is_taken_as_it_comes(student, keep, value):
    """Times, retries and ids that are none break neither the record nor the story."""
    odd = history()
    odd.events += [{"type": value, "uuid": value or "x", "timestamp": value, "hostname": value}]
    odd.messages += [Message(value, value, value, value, value, value, 101.0)]
    odd.requests += [{"service": value, "at": value, "answered": value, "began": value}]
    odd.faults += [{"kind": value, "at": value}]

    assert not keep("powers", scenes=[scene(odd)])
    every = parts(last("1_2"))
    assert every[0].moments()
    assert ET.fromstring(draw("x", [], every, every[0], "en")) is not None


def test_a_flood_takes_no_time():
    """A hundred thousand messages and fifty checks are cut down within the blink of an eye."""
    flood = history()
    flood.messages = [
        Message("t", str(n), "q", "json", 0, None, 100 + n / 1e5) for n in range(10**5)
    ]
    flood.checks = [
        {"id": str(n), "lane": "", "began": 100 + n / 50, "ended": 100 + (n + 1) / 50}
        for n in range(50)
    ]

    began = time.process_time()
    found = scene(flood)

    assert time.process_time() - began < 5
    assert len(found["messages"]) <= 50 * MOST["messages"]


def test_the_story_is_in_the_order_of_time():
    """Calls, attempts, planned waits, workers, requests and faults are told as they came."""
    (part,) = parts(record_of())
    lines = told(part)

    wanted = ("sent power", "started by worker lab@x", "no answer", "retry 1 of power")
    assert all(any(line.startswith(start) for line in lines) for start in wanted)
    assert "retry 1 of power published, to start in 4.0 s" in lines
    assert "other published to the queue celery" in lines
    assert "answered SUCCESS: 8" in lines
    assert "fault made by the lab: freeze" in lines
    assert any("answered 503" in line for line in lines)
    times = [moment.at for moment in part.moments()]
    assert times == sorted(times) and times[0] >= 100 and times[-1] <= 110


def test_where_it_broke_is_the_call_that_the_card_names():
    """The call that stands in what was expected is the one that broke."""
    (part,) = parts(record_of())

    assert part.broke("power(2, 3) returns 8.0") == {1}
    assert part.broke("it hangs") == set()


def test_calls_of_another_criterions_time_are_found():
    """A check that judges what was sent before it is told by the calls that the card names."""
    two = history()
    two.checks += [{"id": "overflow", "lane": "", "began": 300.0, "ended": 300.1}]
    two.requests[0]["path"] = "/jobs/keykeykey"
    two.calls[0].args = ("keykeykey",)
    entries = [{"id": id, "broker": "redis", "verdict": "failed"} for id in ("powers", "overflow")]
    record = Record({"en": {"criteria": entries}}, [scene(two)])
    own, later = parts(record)

    found = elsewhere(record, later, "power('keykeykey') plans these waits")

    lines = told(found)
    assert "retry 1 of power published, to start in 4.0 s" in lines
    assert sum("keykeykey" in line for line in lines) == 2 and found.ended < 200
    assert elsewhere(record, own, "power('keykeykey') waits") is None
    assert elsewhere(record, later, "something else") is None


def test_a_criterion_that_was_tried_again_is_told_once():
    """The second try counts, and what was asked on another broker is not mixed in."""
    twice = record_of()
    first = dict(twice.scenes[0], checks=[dict(twice.scenes[0]["checks"][0], ended=101.0)])

    (part,) = parts(Record(twice.documents, [first, *twice.scenes]))

    assert part.ended == 110
    assert parts(record_of(broker="rabbitmq")) == []


def test_less_than_there_was_is_said():
    """Left-out records, and a criterion that sent nothing, have their sentence."""
    (part,) = parts(record_of())
    assert not remark(part)
    many = history()
    many.calls = [Call(str(n), "t.x", (), {}, 100 + n / 1000) for n in range(150)]
    empty = History("1_2", "redis", checks=many.checks)
    records = [Record(record_of().documents, [scene(each)]) for each in (many, empty)]

    said = [remark(*parts(each)).render("en") for each in records]

    assert "30 records" in said[0] and "Nothing was sent" in said[1]


def test_the_picture_is_well_formed_and_harmless():
    """The SVG parses, names itself, and a stranger's words are only text."""
    every = parts(record_of())

    text = draw(f"1_2 {EVIL}", [EVIL], every, every[0], "en")

    root = ET.fromstring(text)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert root.get("role") == "img" and names.count("desc") == 1 and "script" not in names
    assert "prefers-color-scheme: dark" in text and "\x1b" not in text and "\u202e" not in text
    assert "FAIL" in text and "no answer" in text and "waits 4.0 s" in text
    assert re.search(r'class="fault"', text)


def test_a_picture_of_nothing_is_a_picture():
    """A run in which no lab came up has its words only."""
    assert ET.fromstring(draw("1_2", ["it does not start"], [], None, "zh")) is not None


# The command


def explain(*arguments):
    """Call `lab explain` and return what it printed."""
    run = CliRunner().invoke(explain_command, list(arguments))
    if run.exception and not isinstance(run.exception, SystemExit):
        raise run.exception
    assert run.exit_code == 0
    return run.output


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_first_that_failed_is_told(student, keep, lang):
    """Without a criterion it is the first that failed; lines fit the screen; the SVG is there."""
    keep("powers", scenes=[scene(history())])

    said = explain("1_2", "--lang", lang)

    assert "#1" in said and str(student / "1_2.svg") in said
    assert ET.parse(student / "1_2.svg")
    assert max(map(width, said.replace(str(student), "").splitlines())) <= 79
    assert "\x1b" not in said and "\u202e" not in said


def test_a_criterion_without_a_lab_says_why(student, keep):
    """One that was blocked, or that read files only, says that there is nothing to see."""
    keep("overflow", scenes=[scene(history())])

    assert "no turn in a running lab" in " ".join(explain("1_2", "overflow").split())


def test_a_green_run_is_told_too(student, keep):
    """Where all passed there is the overview and its picture."""
    keep(scenes=[scene(history())])

    said = explain("1_2")

    assert "100/100" in said and "On redis:" in said and " powers" in said and "#1" not in said


def test_long_stories_are_cut_in_the_middle(student, keep):
    """Forty lines by default, all of them with --all."""
    many = history()
    many.calls = [Call(str(n), "t.x", (n,), {}, 100 + n / 10) for n in range(50)]
    keep("powers", scenes=[scene(many)])

    assert "--all" in explain("1_2") and "#25 sent" not in explain("1_2")
    assert "#25 sent" in explain("1_2", "--all")


def test_without_a_run_there_is_nothing_to_explain(student):
    """No run yet is an error that says what to run; so is an unknown name."""
    with pytest.raises(UsageError, match="lab grade 1_2"):
        explain("1_2")
    with pytest.raises(UsageError, match="lab list"):
        explain("9_8")
    with pytest.raises(UsageError, match="powers"):
        explain("1_2", "power")


def test_a_picture_that_cannot_be_written_is_one_line(student, keep, tmp_path):
    """The story is told all the same; another file can be named."""
    keep("powers", scenes=[scene(history())])

    with pytest.raises(UsageError, match="can't be written"):
        explain("1_2", "--out", str(tmp_path))
    with pytest.raises(UsageError, match="no folder"):
        explain("1_2", "--out", str(tmp_path / "none" / "own.svg"))
    explain("1_2", "--out", str(tmp_path / "own.svg"))
    assert ET.parse(tmp_path / "own.svg")


def test_scenes_survive_the_record(student, keep):
    """What was seen is read again as it was written."""
    keep("powers", scenes=[scene(history())])

    assert told(parts(last("1_2"))[0]) == told(parts(record_of())[0])
