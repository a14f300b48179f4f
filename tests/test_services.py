"""grader/services/http.py: scripts, the log, and everything that goes wrong on the wire."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from grader.errors import LabFault
from grader.history import History
from grader.process import wait_until
from grader.services.http import (
    HttpService,
    answer,
    cut,
    delay,
    fail,
    ok,
    refuse,
    retry_after,
    stall,
)

HOUR = 3600.0


@pytest.fixture
def service():
    """A running service."""
    with HttpService() as running:
        yield running


def late(what: str) -> AssertionError:
    return AssertionError(f"too late: {what}")


def until(condition, what="condition"):
    return wait_until(condition, 20, lambda: late(what))


def ask(service, key="job-1", method="GET", body=None, headers=None, path=None):
    """Send one request on a connection of its own; return status, headers and body."""
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        line.request(method, path or f"/jobs/{key}", body, headers or {})
        reply = line.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        line.close()


def statuses(service, key="job-1", times=1):
    return [ask(service, key)[0] for _ in range(times)]


def raw(service, data=b""):
    """Open a bare connection and send some bytes."""
    line = socket.create_connection(("127.0.0.1", service.port), 30)
    line.sendall(data)
    return line


def drained(line):
    """Read a bare connection to its end."""
    with line, line.makefile("rb") as file:
        return file.read()


GET = b"GET /jobs/job-1 HTTP/1.1\r\nHost: lab\r\n\r\n"


# Scripts


def test_a_script_is_played_and_then_its_end_for_ever(service):
    """Three failures, then success for as long as anybody asks."""
    service.script("job-*", fail(503, times=3), then=ok(value=1))

    assert statuses(service, times=6) == [503, 503, 503, 200, 200, 200]
    assert json.loads(ask(service)[2]) == {"value": 1}


def test_each_key_plays_its_own_copy(service):
    """What one key has used up, another still has before it."""
    service.script("job-*", fail(500), then=ok())

    assert statuses(service, "job-1", 2) == [500, 200]
    assert statuses(service, "job-2", 2) == [500, 200]


def test_the_newest_script_counts(service):
    """A later script of a wider, narrower or equal pattern takes over from its own start."""
    service.script("job-*", then=ok())
    service.script("job-1", fail(500), then=fail(404))
    assert statuses(service, "job-1", 2) == [500, 404]
    assert statuses(service, "job-2") == [200]

    service.script("job-*", fail(502))
    assert statuses(service, "job-1") == [502]


def test_a_script_that_is_over_says_so(service):
    """Without `then`, one request too many gets 410 and a sentence in both languages."""
    service.script("job-1", ok())

    assert statuses(service, times=3) == [200, 410, 410]
    error = json.loads(ask(service)[2])["error"]
    assert "job-1 ended after 1 requests" in error["en"] and "job-1" in error["zh"]


@pytest.mark.parametrize("path", ["/jobs/other", "/jobs/", "/job-1", "/", "/x/jobs/job-1"])
def test_what_nobody_scripted_is_404_and_logged(service, path):
    """Another key, or a path outside the prefix, is answered with a sentence and logged."""
    service.script("job-*", then=ok())

    status, _, body = ask(service, path=path)

    assert status == 404 and path in json.loads(body)["error"]["en"]
    assert [(row["path"], row["answered"]) for row in service.log()] == [(path, 404)]


def test_a_key_is_decoded_and_has_no_query(service):
    """Percent signs are decoded, the query stays in the path only, and patterns mind the case."""
    service.script("a b/*", then=ok())

    assert ask(service, path="/jobs/a%20b/c?page=2")[0] == 200
    assert ask(service, path="/jobs/A%20b/c")[0] == 404
    (found,) = service.requests("a b/c")
    assert found.path == "/jobs/a%20b/c?page=2"
    assert service.address("a b/c").endswith("/jobs/a%20b/c")


def test_bodies_and_headers_are_sent_as_scripted(service):
    """Bytes as they are, text as UTF-8, all else as JSON; own headers win."""
    service.script(
        "job-1",
        answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}),
        answer(418, "茶"),
        answer(200, [1, None]),
        answer(200, "<a/>", {"content-type": "text/xml", "X-Lab": "1"}),
        answer(299, b"odd"),
    )

    _, headers, body = ask(service)
    assert (headers["Content-Encoding"], body, headers["Content-Type"]) == (
        "gzip",
        b"\x1f\x8b",
        None,
    )
    status, headers, body = ask(service)
    assert (status, body.decode(), headers["Content-Length"]) == (418, "茶", "3")
    assert json.loads(ask(service)[2]) == [1, None]
    assert ask(service)[1].get_all("Content-Type") == ["text/xml"]
    assert ask(service)[0] == 299


def test_retry_after_takes_seconds_dates_and_garbage(service):
    """A moment is sent as an HTTP date in GMT, anything else as it is."""
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    service.script(
        "job-1", retry_after(7), retry_after(moment, status=429), retry_after("soon, promised")
    )

    seen = [ask(service)[:2] for _ in range(3)]

    assert [status for status, _ in seen] == [503, 429, 503]
    assert [headers["Retry-After"] for _, headers in seen] == [
        "7",
        "Wed, 02 Jan 2030 03:04:05 GMT",
        "soon, promised",
    ]


def test_answers_without_a_body_have_none(service):
    """HEAD, 204 and 304 leave the connection ready for the next request."""
    service.script("job-1", ok(), answer(204), answer(304, b"x"), then=ok())
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)

    seen = []
    for method in ("HEAD", "GET", "GET", "GET"):
        line.request(method, "/jobs/job-1")
        reply = line.getresponse()
        seen.append((reply.status, reply.read()))
    line.close()

    assert seen == [(200, b""), (204, b""), (304, b""), (200, b'{"value": 1}')]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: fail(99),
        lambda: answer(600),
        lambda: fail(503, times=0),
        lambda: delay(-1, ok()),
        lambda: cut(ok(), after_bytes=len(ok().body)),
        lambda: cut(answer(204)),
        lambda: cut(refuse()),
        lambda: stall(refuse(), 0, 1),
        lambda: stall(ok(), len(ok().body) + 1, 1),
    ],
)
def test_a_step_that_can_not_be_is_refused_at_once(wrong):
    """A status, a count, a delay or a cut that makes no sense fails where it is written."""
    with pytest.raises(ValueError):
        wrong()


def test_a_script_without_a_step_is_refused(service):
    """An empty script is a slip."""
    with pytest.raises(ValueError, match="no step"):
        service.script("job-*")


# Misbehaviour on the wire


def test_refused_means_no_answer(service):
    """The connection is reset, and the next request goes on in the script."""
    service.script("job-1", refuse(times=2), then=ok())

    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            ask(service)
    assert statuses(service) == [200]
    assert [each.answered for each in service.requests()] == ["refused", "refused", 200]


def test_a_cut_body_is_shorter_than_declared(service):
    """The whole length is declared, some bytes come, and the connection ends."""
    service.script("job-1", cut(answer(200, b"0123456789"), after_bytes=4), cut(fail(503)))

    with pytest.raises(http.client.IncompleteRead) as error:
        ask(service)
    assert (error.value.partial, error.value.expected) == (b"0123", 6)
    with pytest.raises(http.client.IncompleteRead):
        ask(service)
    assert [each.answered for each in service.requests()] == ["cut", "cut"]


def test_a_delayed_answer_comes_late_but_comes(service):
    """The log shows the wait, and that the request was there before its answer."""
    service.script("job-1", delay(0.3, ok()), delay(0.1, refuse()))

    assert statuses(service) == [200]
    with pytest.raises(ConnectionResetError):
        ask(service)

    first, second = service.requests()
    assert first.ended - first.began >= 0.3 and second.ended - second.began >= 0.1


def test_a_stalled_answer_begins_and_falls_silent(service):
    """Head and first bytes come at once, the rest later; who leaves meanwhile has hung up."""
    service.script("job-1", stall(answer(200, b"0123456789"), 4, 0.3), stall(ok(), 0, HOUR))

    assert statuses(service) == [200]
    line = raw(service, GET)
    until(lambda: len(service.requests()) == 2, "the request")
    line.recv(4096)
    line.close()

    until(lambda: service.requests()[1].answered == "hung up", "the hang-up")
    first = service.requests()[0]
    assert first.answered == 200 and first.ended - first.began >= 0.3


def test_a_client_that_gives_up_is_logged_as_such(service):
    """A client that hangs up during a delay is noticed at once, and others go on."""
    service.script("job-1", delay(HOUR, ok()), then=ok())
    line = raw(service, GET)
    until(service.requests, "the request")
    assert service.requests()[0].answered is None

    line.close()

    until(lambda: service.requests()[0].answered == "hung up", "the hang-up")
    assert statuses(service) == [200]


def test_a_client_that_resets_is_logged_as_such(service):
    """A reset instead of a close is the same to the log."""
    service.script("job-1", delay(HOUR, ok()))
    line = raw(service, GET)
    until(service.requests, "the request")

    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.close()

    until(lambda: service.requests()[0].answered == "hung up", "the hang-up")


def test_a_client_that_leaves_amid_its_body_is_logged(service):
    """A request whose body never ends up whole uses no step of the script."""
    service.script("job-1", fail(500), then=ok())
    line = raw(service, b"POST /jobs/job-1 HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
    until(service.requests, "the request")

    line.close()

    until(lambda: service.requests()[0].answered == "hung up", "the hang-up")
    assert statuses(service) == [500]


def test_a_client_that_never_reads_disturbs_nobody(service):
    """An answer too big for the system's buffers waits without holding up others."""
    service.script("big", then=answer(200, bytes(32 * 1024 * 1024)))
    service.script("job-1", then=ok())
    with raw(service, GET.replace(b"job-1", b"big")):
        until(service.requests, "the request")
        assert statuses(service, times=3) == [200] * 3

    until(lambda: service.requests("big")[0].answered == "hung up", "the hang-up")
    assert len(ask(service, "big")[2]) == 32 * 1024 * 1024


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /jobs/job-1\r\n\r\n",
        b"GET /jobs/job-1 SPDY/3\r\n\r\n",
        b"GET /jobs/job-1 HTTP/1.1\r\nContent-Length: -4\r\n\r\n",
        b"GET /jobs/job-1 HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"\xff\xfe\x00\r\n\r\n",
    ],
)
def test_what_is_not_http_is_told_so(service, nonsense):
    """Bytes that are no request are answered 400, logged without a method, and end there."""
    service.script("job-*", then=ok())

    reply = drained(raw(service, nonsense))

    assert reply.startswith(b"HTTP/1.1 400 ")
    assert [(each.method, each.answered) for each in service.requests()] == [("", 400)]


def test_silent_connections_are_no_requests(service):
    """Connections that send nothing, or half a head, leave no trace in the log."""
    service.script("job-1", then=ok())
    raw(service).close()
    raw(service, b"GET /jobs/").close()

    assert statuses(service) == [200]
    assert len(service.log()) == 1


def test_a_body_in_chunks_is_put_together(service):
    """A body without a length is logged whole, and the connection goes on behind it."""
    service.script("job-1", then=ok())
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)

    for _ in range(2):
        line.request("POST", "/jobs/job-1", iter([b"one ", b"x" * 70_000, b" two"]))
        assert line.getresponse().read() == b'{"value": 1}'
    line.close()

    assert [each.body for each in service.requests()] == ["one " + "x" * 70_000 + " two"] * 2


@pytest.mark.parametrize("chunks", [b"pear\r\n", b"-5\r\n12345", b"x" * 70_000, b"3\r\nab"])
def test_broken_chunks_end_the_connection(service, chunks):
    """A size that is no number, or less than there should be: logged, and no step is used."""
    service.script("job-1", fail(500), then=ok())
    head = b"POST /jobs/job-1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"

    raw(service, head + chunks).close()

    until(lambda: [e.answered for e in service.requests()] == ["hung up"], "the end")
    assert statuses(service) == [500]


def test_endless_headers_are_no_request(service):
    """More than 64 KiB of headers are logged as what they are; others are served."""
    service.script("job-1", then=ok())

    with raw(service, b"GET /jobs/job-1?" + b"x" * 70_000):
        until(lambda: [e.answered for e in service.requests()] == [400], "the refusal")

    assert service.requests()[0].method == "" and statuses(service) == [200]


def test_old_clients_are_answered_and_closed(service):
    """An HTTP/1.0 client, or one that asks for a close, gets one."""
    service.script("job-1", then=ok())

    for head in (GET.replace(b"1.1", b"1.0"), GET.replace(b"Host: lab", b"Connection: Close")):
        reply = drained(raw(service, head))
        assert b"Connection: close\r\n" in reply and reply.endswith(b'{"value": 1}')


def test_requests_sent_ahead_are_answered_in_order(service):
    """Two requests in one packet get two answers on the same connection."""
    service.script("job-1", answer(200, b"one"), answer(200, b"two"))

    reply = drained(raw(service, GET + GET.replace(b"Host: lab", b"Connection: close")))

    assert reply.index(b"one") < reply.index(b"two")


def test_a_client_may_wait_for_leave_to_send(service):
    """`Expect: 100-continue` is granted before the body is read."""
    service.script("job-1", then=ok())
    head = b"POST /jobs/job-1 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with raw(service, head) as line:
        assert line.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(b"{}")
        assert line.recv(15) == b"HTTP/1.1 200 OK"

    assert service.requests()[0].body == "{}"


# The log


def test_the_log_holds_what_was_sent(service):
    """Method, headers in lower case, body, times: all as they came; records can't be changed."""
    service.script("job-1", then=answer(201))
    before = time.time()

    ask(service, method="POST", body="wört".encode(), headers={"Idempotency-Key": "K1"})

    (seen,) = service.requests("job-1")
    assert (seen.method, seen.path, seen.key, seen.body) == ("POST", "/jobs/job-1", "job-1", "wört")
    assert seen.headers["idempotency-key"] == "K1" and seen.answered == 201
    assert before <= seen.at <= time.time() and seen.began <= seen.ended <= time.monotonic()
    with pytest.raises(AttributeError):
        seen.answered = 200
    with pytest.raises(TypeError):
        seen.headers["x"] = "y"


def test_the_log_goes_into_a_history(service, tmp_path):
    """The rows survive a history's way to the disk and back, odd bytes and all."""
    service.script("job-1", refuse(), then=ok())
    with pytest.raises(ConnectionResetError):
        ask(service)
    ask(service, method="PUT", body=b"\xff\xed\xa0\x80 ok")

    History(requests=service.log()).save(tmp_path / "h.json")

    rows = History.load(tmp_path / "h.json").requests
    assert rows == service.log()
    assert [row["answered"] for row in rows] == ["refused", 200] and rows[1]["body"].endswith(" ok")


def test_an_answer_is_in_the_log_before_it_is_read(service):
    """Whoever holds an answer finds the request's end in the log, every time."""
    service.script("job-1", then=ok())

    for n in range(1, 200):
        ask(service)
        assert [each.answered for each in service.requests()] == [200] * n


def test_a_long_body_is_read_but_not_kept(service, monkeypatch):
    """A body beyond the limit is taken to its end; the log keeps its beginning."""
    monkeypatch.setattr("grader.services.wire.BODY_LIMIT", 1000)
    service.script("job-1", then=ok())

    assert ask(service, method="POST", body=b"x" * 3_000_000)[0] == 200

    assert service.requests()[0].body == "x" * 1000


def test_a_flood_is_refused_when_the_log_is_full(service, monkeypatch):
    """Requests beyond the log's limit are reset, and the log stays as it is."""
    monkeypatch.setattr("grader.services.http.LOG_LIMIT", 1000)
    service.script("job-*", then=ok())

    assert ask(service, method="POST", body=b"x" * 900)[0] == 200
    with pytest.raises(ConnectionResetError):
        ask(service, method="POST", headers={"X": "y" * 200})
    assert len(service.log()) == 1


def test_many_at_once_are_all_answered_and_logged(service):
    """Sixteen threads, four hundred requests on forty keys: each key plays its script in full."""
    service.script("job-*", fail(503, times=4), delay(0.01, fail(500)), then=ok())

    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(lambda n: ask(service, f"job-{n % 40}")[0], range(400)))

    assert sorted(seen) == [200] * 200 + [500] * 40 + [503] * 160
    for n in range(40):
        answered = sorted(each.answered for each in service.requests(f"job-{n}"))
        assert answered == [200] * 5 + [500] + [503] * 4


def test_delays_run_side_by_side(service):
    """A hundred delayed requests wait together, and one without a delay overtakes them all."""
    service.script("slow-*", then=delay(HOUR, ok()))
    service.script("job-1", then=ok())
    lines = [raw(service, GET.replace(b"job-1", b"slow-%d" % n)) for n in range(100)]

    until(lambda: len(service.requests("slow-*")) == 100, "the requests")
    assert statuses(service) == [200]

    assert {each.answered for each in service.requests("slow-*")} == {None}
    for line in lines:
        line.close()
    until(lambda: {each.answered for each in service.requests("slow-*")} == {"hung up"}, "the end")


def test_scripting_while_requests_come(service):
    """A script may be changed from another thread at any time."""
    service.script("job-1", then=ok())
    done = threading.Event()

    def keep_asking():
        while not done.is_set():
            assert ask(service)[0] in (200, 500)
        return True

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        for n in range(50):
            service.script("job-1", then=fail(500) if n % 2 else ok())
            service.log()
        done.set()
        assert all(each.result() for each in asking)


# The end


def test_stop_frees_port_and_threads_at_once():
    """A request that hangs, one half sent and one kept open: none of them holds up the stop."""
    threads = threading.active_count()
    with HttpService() as service:
        service.script("job-1", then=delay(HOUR, ok()))
        service.script("big", then=answer(200, bytes(32 * 1024 * 1024)))
        lines = [
            raw(service, GET),
            raw(service, GET.replace(b"job-1", b"big")),
            raw(service, b"POST /jobs/job-1 HTTP/1.1\r\nContent-Length: 9\r\n\r\n1"),
            raw(service, b"GET /jo"),
            raw(service),
        ]
        until(lambda: len(service.requests()) == 3, "the requests")
        began = time.monotonic()

    assert time.monotonic() - began < 5
    assert threading.active_count() == threads
    assert {each.answered for each in service.requests()} == {"stopped"}
    with pytest.raises(ConnectionRefusedError):
        raw(service)
    for line in lines:
        line.close()
    with HttpService(port=service.port) as again:
        assert again.port == service.port


def test_stop_may_come_twice_and_from_two_sides():
    """A second stop, also at the same time from another thread, does nothing."""
    service = HttpService()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: service.stop(), range(4)))

    service.stop()
    assert service.log() == []


def test_stop_while_clients_rush_in():
    """Clients that connect during the stop are turned away; nothing is left behind."""
    threads = threading.active_count()
    for _ in range(10):
        service = HttpService()
        service.script("job-1", then=ok())
        done = threading.Event()

        def rush(service=service, done=done):
            while not done.is_set():
                try:
                    ask(service)
                except (OSError, http.client.HTTPException):
                    continue

        with ThreadPoolExecutor(4) as pool:
            rushing = [pool.submit(rush) for _ in range(4)]
            until(service.requests, "a request")
            service.stop()
            done.set()
            [each.result() for each in rushing]
    assert threading.active_count() == threads


def test_a_port_that_is_taken_is_the_labs_fault(service):
    """The sentence names the port, and no thread is left."""
    threads = threading.active_count()

    with pytest.raises(LabFault, match=str(service.port)):
        HttpService(port=service.port)
    with pytest.raises(LabFault, match="70000"):
        HttpService(port=70000)

    assert threading.active_count() == threads


def test_services_stand_side_by_side():
    """Two services have ports, scripts and logs of their own, each with its own prefix."""
    with HttpService("/") as one, HttpService("/v1/") as two:
        one.script("a", then=ok())
        two.script("a", then=fail(500))

        assert ask(one, path="/a")[0] == 200
        assert ask(two, path="/v1/a")[0] == 500
        assert (len(one.log()), len(two.log())) == (1, 1)


def test_a_date_ahead_is_whole_seconds_away(service):
    """What a check sends as a date is read back as the same moment, to the second."""
    moment = datetime.now(UTC) + timedelta(seconds=20)
    service.script("job-1", retry_after(moment))

    from email.utils import parsedate_to_datetime

    read = parsedate_to_datetime(ask(service)[1]["Retry-After"])
    assert timedelta(0) <= moment - read < timedelta(seconds=1)
