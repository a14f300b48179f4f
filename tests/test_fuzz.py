"""Whatever reads a stranger's bytes, fed with bytes that nobody would send on purpose."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import tarfile
import tempfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grader.client import Client
from grader.errors import BadExercise, BadSubmission, ClientFailed
from grader.events import Listener
from grader.exercise import EXERCISES, find, load
from grader.expect import answers, fails_with, lists, returns
from grader.history import Call, History, Message, Reply
from grader.home import ledger_processes
from grader.order import put_off
from grader.report import FORMATS, render
from grader.scene import scene
from grader.services.browse import ask
from grader.services.http import HttpService
from grader.services.wire import parse
from grader.steps import ancestors, quiet, spans, steps
from grader.submission import Submission
from grader.tap import RabbitTap, RedisTap
from grader.verdict import Finding, Result, Verdict
from grader.words import Text

# No deadline: the machine may be busy. The examples are the same each time, so that a failure is
# everybody's; `--hypothesis-seed=random` draws others.
settings.register_profile(
    "lab",
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("lab")

ANY_TEXT = st.text(st.characters(), max_size=40)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=12
)
NAMES = st.sampled_from(
    ["../up", "/abs", "a/../../b", "calculator.py", "a\\..\\..\\b", ".", "..", "a//b", "c:\\x", ""]
) | st.text(max_size=30)


def said(error):
    """An error of the lab's has words in both languages."""
    assert error.text.render("en") and error.text.render("zh")


def mangled(whole: bytes):
    """Return a strategy of bytes like `whole`, with some changed, cut or put in."""
    change = st.tuples(st.integers(0, len(whole)), st.integers(0, 6), st.binary(max_size=6))

    def apply(changes):
        data = whole
        for place, length, new in changes:
            data = data[:place] + new + data[place + length :]
        return data

    return st.lists(change, min_size=1, max_size=8).map(apply)


# Submissions


def copied(data, suffix):
    """Copy an archive of these bytes and return the files, None where it was refused."""
    with tempfile.TemporaryDirectory() as temp:
        top = Path(temp, "in")
        top.mkdir()
        (top / f"work{suffix}").write_bytes(data)
        try:
            Submission.at(top / f"work{suffix}").copy(Path(temp, "out"), find("1_2"))
        except BadSubmission as refusal:
            said(refusal)
        outside = [path.name for path in Path(temp).iterdir() if path.name not in ("in", "out")]
        assert outside == [] and len(list(top.iterdir())) == 1


def zipped(names, content=b"x = 1\n"):
    """Return a zip with these members."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def tarred(members):
    """Return a tar with these (name, type, link) members."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 2
            archive.addfile(info, io.BytesIO(b"x\n"))
    return target.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(st.lists(NAMES, max_size=5))
def test_zip_names(names):
    """A zip with any names is copied below its folder or refused in words."""
    copied(zipped(names), ".zip")


@given(mangled(zipped(["calculator.py", "a/b.py", "web.py"])))
def test_mangled_zips(data):
    """A damaged zip is copied below its folder or refused in words."""
    copied(data, ".zip")


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(list(b"01234567")).map(lambda b: bytes([b])), NAMES))
)
def test_tar_members(members):
    """A tar with any names, kinds and links is copied below its folder or refused in words."""
    copied(tarred(members), ".tar")


@given(mangled(tarred([("calculator.py", b"0", ""), ("a/b.py", b"0", ""), ("c", b"2", "a")])))
def test_mangled_tars(data):
    """A damaged tar is copied below its folder or refused in words."""
    copied(data, ".tar")


@given(st.binary(max_size=300), st.sampled_from([".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"]))
def test_bytes_as_archives(data, suffix):
    """Any bytes under an archive's name are refused in words."""
    copied(data, suffix)


# exercise.toml


def loaded(text):
    """Load an exercise.toml with this text; BadExercise is fine, anything else is not."""
    with tempfile.TemporaryDirectory() as temp:
        (Path(temp) / "exercise.toml").write_bytes(text)
        try:
            exercise = load(Path(temp))
        except BadExercise as refusal:
            said(refusal)
        else:
            assert exercise.criteria and exercise.brokers


@given(mangled((EXERCISES / "1_2" / "exercise.toml").read_bytes()))
def test_mangled_exercises(text):
    """A damaged exercise.toml is loaded or refused in words."""
    loaded(text)


TOML_VALUES = st.sampled_from(
    ['"x"', "1", "-5", "true", "[]", '["redis"]', "{}", '{ en = "{a}", zh = "b" }', "nan", "1e400"]
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "stars",
                "minutes",
                "module",
                "brokers",
                "files",
                "needs",
                "title",
                "criteria",
                "words",
            ]
        )
        | st.sampled_from(["environment", "speed", "patience", "odd"]),
        TOML_VALUES,
    )
)
def test_exercises_of_odd_types(table):
    """An exercise.toml with any values under its keys is loaded or refused in words."""
    loaded("\n".join(f"{key} = {value}" for key, value in table.items()).encode())


# Results, messages, events


def expected_of(reply):
    """Compare a reply as checks do, and write what they say of it in every format."""
    call = Call("id", "calculator.add", (1, 2), reply=reply)
    wanted = [returns(3.0), returns(3.0, rel=1e-12), returns([1]), returns(None), lists()]
    for expectation in (*wanted, answers(), fails_with("ValueError")):
        if call != expectation:
            assert expectation.wanted(call).render("en")
    return call


@given(JSON, st.sampled_from(["SUCCESS", "FAILURE", "RETRY", "odd", ""]), st.booleans())
def test_results(value, state, ascii_only):
    """Any JSON under a result's keys is a reply that can be compared and told."""
    document = {"status": state, "result": value}
    raw = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    reply = Reply.parse(raw)

    assert isinstance(reply.final, bool)
    expected_of(reply)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_results_of_any_bytes(raw):
    """Any bytes in a result's place are a reply that can be compared and told."""
    expected_of(Reply.parse(raw))


@given(st.dictionaries(st.sampled_from(["exc_type", "exc_message", "exc_module", "x"]), JSON))
def test_errors(result):
    """Any JSON as an error's parts is a failure that can be compared and told."""
    reply = Reply.parse(json.dumps({"status": "FAILURE", "result": result}).encode())

    expected_of(reply)


@pytest.fixture(scope="module")
def receiver():
    """Celery's own reader of events, connected to nothing."""
    from celery import Celery

    app = Celery("fuzz", broker="memory://", set_as_current=False)
    with app.connection_for_read() as connection:
        yield app.events.Receiver(connection)


EVENT_KEYS = st.sampled_from(["type", "uuid", "timestamp", "utcoffset", "clock", "hostname", "pid"])


@given(JSON | st.lists(st.dictionaries(EVENT_KEYS, JSON)) | st.dictionaries(EVENT_KEYS, JSON))
def test_events(receiver, body):
    """Any JSON as an event is kept as plain data or passed over."""
    listener = Listener.__new__(Listener)
    listener.into = []
    listener._take(SimpleNamespace(decode=lambda: body), receiver)

    history = History(events=listener.into)
    assert isinstance(history.events_of("id"), list)
    assert history.executions("id") >= 0


KINDS = st.sampled_from(
    ["task-received", "task-started", "task-succeeded", "task-retried", "task-revoked", "x"]
)
FEW = st.sampled_from(["a", "b"])
EVENT = st.fixed_dictionaries(
    {"type": KINDS | JSON, "uuid": FEW | JSON},
    optional=dict.fromkeys(("timestamp", "parent_id", "name", "eta", "retries"), FEW | JSON),
)


@given(st.lists(EVENT))
def test_what_events_tell(events):
    """Any values in the workers' events are read as steps of a workflow, or passed over."""
    found = steps(events)

    assert quiet(events) in (True, False)
    assert put_off(events, 4.0) in (True, False)
    for step in found.values():
        assert step not in ancestors(step, found)
        assert len(spans(step)) == len(step.received)
    json.dumps(scene(History(events=events)), default=str)


@given(st.lists(st.builds(Message, *[ANY_TEXT] * 4, st.integers(-5, 5), ANY_TEXT, st.floats())))
def test_planned_waits(messages):
    """Any texts as a message's time are a wait or none, and a history of them can be saved."""
    history = History(messages=messages)

    for message in messages:
        assert all(wait >= 0 or wait != wait for wait in history.planned_waits(message.id))
    with tempfile.TemporaryDirectory() as temp:
        history.save(Path(temp, "history.json"))
        assert len(History.load(Path(temp, "history.json")).messages) == len(messages)


def deaf(kind):
    """Return a tap of that kind that is connected to nothing."""
    tap = kind.__new__(kind)
    tap.into, tap.seen, tap._mine = [], 0, b"[0 "
    return tap


HEADERS = st.dictionaries(st.sampled_from(["task", "id", "retries", "eta"]), JSON)


@given(st.binary(max_size=200) | HEADERS.map(lambda h: json.dumps({"headers": h}).encode()))
def test_monitored_commands(payload):
    """Any pushed bytes are a task's message to the Redis tap or none."""
    tap = deaf(RedisTap)
    quoted = payload.decode("latin1").encode("unicode_escape").replace(b'"', b'\\"')

    tap._take(b'1.0 [0 127.0.0.1:1] "LPUSH" "celery" "' + quoted + b'"')
    tap._take(b'1.0 [0 127.0.0.1:1] "LPUSH" ' + payload)

    assert tap.seen == 2
    assert all(isinstance(message, Message) for message in tap.into)


@given(st.dictionaries(st.sampled_from(["properties", "routing_keys"]), JSON), HEADERS, JSON)
def test_traced_messages(headers, inner, body):
    """Any frame is a task's message to the RabbitMQ tap or none."""
    tap = deaf(RabbitTap)

    tap._take(SimpleNamespace(headers=headers, body=body))
    full = {"properties": {"headers": inner}, "routing_keys": ["q"], **headers}
    tap._take(SimpleNamespace(headers=full, body=b"\xff"))
    full["properties"] = {"headers": inner}
    tap._take(SimpleNamespace(headers=full, body="x"))

    assert tap.seen == 3


# The client process


def answering(line):
    """Return a client whose process has printed this line."""
    import queue

    client = Client.__new__(Client)
    client.module, client.limit, client._answers, client._hello = "m", 0.1, queue.Queue(), None
    client._answers.put(line)
    return client


@given(st.binary(min_size=1, max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_answers(line):
    """Any line of a client process is an answer, or an error of the submission's."""
    try:
        answer = answering(line)._next(0.1)
    except ClientFailed as failure:
        said(failure)
    else:
        assert isinstance(answer.error, str)


@given(
    st.fixed_dictionaries(
        {"tasks": JSON, "routes": JSON | st.dictionaries(ANY_TEXT, st.just({"queue": "q"}) | JSON)},
        optional={"result_key": JSON},
    )
)
def test_hellos(told):
    """Any hello is of the form that the lab works with, or an error of the submission's."""
    try:
        hello = answering(json.dumps({"value": told}).encode()).hello()
    except ClientFailed:
        return
    json.dumps(hello, ensure_ascii=False).encode()
    assert all(0 < len(route["queue"].encode()) < 256 for route in hello["routes"].values())


# HTTP


HEADER = st.sampled_from(
    [b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Host"]
)
LINES = st.lists(st.tuples(HEADER, st.binary(max_size=20) | st.sampled_from([b"chunked", b"-1"])))


@given(st.binary(max_size=60), LINES)
def test_request_heads(first, rows):
    """Any bytes in a request's place are parsed as a request or marked as none."""
    head = b"\r\n".join([first, *(b": ".join(row) for row in rows), b"", b""])

    request, _ = parse(head, "/jobs/")

    assert json.dumps(request.plain())


@settings(max_examples=30)
@given(st.binary(max_size=200) | LINES.map(lambda rows: b"GET / HTTP/1.1\r\n" + b"".join(
    name + b": " + value + b"\r\n" for name, value in rows) + b"\r\n"))  # fmt: skip
def test_a_service_outlives_any_request(service, sent):
    """After any bytes the service answers an ordinary request."""
    with socket.create_connection(("127.0.0.1", service.port), 5) as link:
        link.sendall(sent)
        link.shutdown(socket.SHUT_WR)

    # Nothing is scripted, and the service says so.
    assert ask("GET", f"{service.url}/jobs/plain").status == 404


@pytest.fixture(scope="module")
def service():
    """A scripted service."""
    with HttpService() as flaky:
        yield flaky


@settings(max_examples=30)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda b: b"HTTP/1.1 200 OK\r\n" + b))
def test_pages(page):
    """Any bytes as a submission's page are a page, or none with a reason."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def serve():
            link, _ = door.accept()
            with link:
                link.recv(1000)
                link.sendall(page)

        thread = threading.Thread(target=serve)
        thread.start()
        seen = ask("GET", f"http://127.0.0.1:{door.getsockname()[1]}/", within=2)
        thread.join()

    assert isinstance(seen.json, dict) and repr(seen)


def test_a_page_that_drips_has_an_end():
    """A page that comes drop by drop is given up, though no single read is late."""
    over = threading.Event()
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def drip():
            link, _ = door.accept()
            with link, contextlib.suppress(OSError):
                link.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not over.wait(0.1):
                    link.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        seen = ask("GET", f"http://127.0.0.1:{door.getsockname()[1]}/", within=0.5)
        over.set()
        thread.join()

    assert seen.status == 0


# Reports and the run's own files


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, st.sampled_from(FORMATS), st.sampled_from(["en", "zh"]))
def test_reports(one, other, name, format, lang):
    """Any texts of a stranger's make a report of visible characters."""
    title = Text({"en": "a title", "zh": "标题"})
    seen = [Text.of("saw_error", error=one), Text.plain(other)]
    finding = Finding("id", title, 5, False, Verdict.FAILED, "redis", seen[0], seen[1])
    result = Result("1_2", name, ("redis",), 1, (finding,), note=Text.plain(other))

    text = render([result], format, lang)

    assert all(c.isprintable() or c == "\n" for c in text)


@given(
    st.binary(max_size=200) | st.lists(JSON).map(lambda v: "\n".join(map(json.dumps, v)).encode())
)
def test_ledgers(data):
    """Any bytes in a run's ledger name no process that is not the very same."""
    with tempfile.TemporaryDirectory() as temp:
        ledger = Path(temp, "ledger.jsonl")
        ledger.write_bytes(data)

        assert list(ledger_processes(ledger)) == []
