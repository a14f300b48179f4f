"""The six services, their faults and their ledger: grader/services/shop, grader/ledger."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from grader.errors import LabFault
from grader.exercise import ROOT
from grader.ledger import Ledger, exchanges, timeline
from grader.links import children, connected
from grader.process import wait_until
from grader.services.shop import Shop
from grader.services.shop.desk import place
from grader.services.shop.trouble import (
    Troubles,
    fault_named,
    flap,
    hold,
    kill,
    latency,
    lost,
    malformed,
    refuse,
    status,
)

CHARGE = {"order_id": "o1", "amount": 12.3, "method": "paypal", "user_id": "u"}
ITEMS = [{"id": "tea", "quantity": 2}]


@pytest.fixture(scope="module")
def shop():
    """Six services, shared: each test has orders of its own."""
    with Shop() as running:
        yield running


@pytest.fixture
def post(shop):
    """Return a function that posts to a service and returns (status, body)."""

    def ask(service, path, key="", **body):
        headers = {"Idempotency-Key": key} if key else {}
        answer = requests.post(shop.urls[service] + path, json=body, headers=headers, timeout=20)
        return answer.status_code, answer.json()

    return ask


def effects(shop, order):
    """Return the names of the effects on an order."""
    return [
        entry.what["effect"]
        for entry in shop.ledger.entries
        if entry.kind == "effect" and entry.subject == order
    ]


# The routes


@pytest.mark.parametrize(
    ("user", "address", "answer"),
    [
        ("anna", None, (200, True)),
        ("anna", {"city": "Porto"}, (200, True)),
        ("blocked-1", None, (200, False)),
        ("unknown-1", None, (404, None)),
    ],
)
def test_users_are_as_they_are_called(post, user, address, answer):
    """A negative validation is a 200 with its reason; an unknown user is a 404."""
    code, body = post("user", f"/users/{user}/validate", shipping_address=address)

    assert (code, body.get("valid")) == answer
    assert answer[1] is True or body["error"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**CHARGE, "amount": "12.3"},
        {**CHARGE, "amount": 0},
        {**CHARGE, "amount": 0.1 + 0.2},
        {**CHARGE, "amount": True},
        {**CHARGE, "order_id": 7},
        {**CHARGE, "order_id": ""},
    ],
)
def test_a_malformed_charge_is_400(shop, post, body):
    """What is missing or of the wrong type is refused with a code and a sentence."""
    code, answer = post("payment", "/process", **body)

    assert code == 400 and answer["error"] == "bad_request" and answer["message"]
    assert effects(shop, "o1") == []


def test_stock_is_taken_and_given_back(shop, post):
    """A reservation is used up by the update; release gives back all that an order holds."""
    shop.stock("tea", 3)
    assert post("inventory", "/reserve", order_id="s1", items=ITEMS)[0] == 200
    assert post("inventory", "/check", items=ITEMS)[1]["unavailable_items"] == ["tea"]
    assert post("inventory", "/update", order_id="s2", items=ITEMS)[0] == 409
    assert post("inventory", "/update", order_id="s1", items=ITEMS)[0] == 200
    assert shop.warehouse.stock["tea"] == 1

    assert post("inventory", "/release", order_id="s1")[1]["released_items"] == ITEMS

    assert shop.warehouse.stock["tea"] == 3
    code, body = post("inventory", "/update", order_id="s1", items=ITEMS)
    assert (code, body["error"]) == (409, "order_closed")


def test_a_refund_gives_back_what_is_left(post):
    """Null means all charges; a second refund has nothing to give; then the order is closed."""
    _, charge = post("payment", "/process", **{**CHARGE, "order_id": "r1"})
    assert post("payment", "/refund", order_id="r1", transaction_id="tx-x")[0] == 404

    _, refund = post("payment", "/refund", order_id="r1", transaction_id=None)
    _, again = post("payment", "/refund", order_id="r1", transaction_id=charge["transaction_id"])

    assert refund["amount"] == 12.3 and refund["refund_id"]
    assert again == {"refund_id": None, "order_id": "r1", "amount": 0.0}
    assert post("payment", "/process", **{**CHARGE, "order_id": "r1"})[0] == 409


def test_a_failed_mark_turns_a_record(shop, post):
    """mark_failed makes a record fail, also one that was completed, and closes the order."""
    body = {"order_id": "m1", "order_data": {}, "transaction_id": "t"}
    assert post("order", "/create", **body)[0] == 200
    assert post("order", "/orders/m1/mark_failed", error_message="")[0] == 400

    assert post("order", "/orders/m1/mark_failed", error_message="no")[1]["status"] == "failed"

    assert effects(shop, "m1") == ["recorded", "failed"]
    assert post("order", "/create", **body)[0] == 409


def test_every_service_is_asked_for_its_health_by_get(shop):
    """GET /health answers, POST is 405, and each service shows its API."""
    for name, url in shop.urls.items():
        assert requests.get(f"{url}/health", timeout=9).json()["service"] == f"{name}_service"
        assert requests.post(f"{url}/health", timeout=9).status_code == 405
        assert requests.get(f"{url}/openapi.json", timeout=9).json()["paths"]


# Keys


def test_a_key_keeps_the_first_answer(shop, post):
    """A repetition gets the first answer, a refusal too; without a key it is new work."""
    first = post("payment", "/process", "k1", **{**CHARGE, "order_id": "k1"})
    assert post("payment", "/process", "k1", **{**CHARGE, "order_id": "k1"}) == first
    assert post("payment", "/process", "k1", **{**CHARGE, "order_id": "k2"})[0] == 422
    declined = {**CHARGE, "order_id": "k3", "method": "empty_card"}
    assert post("payment", "/process", "k3", **declined)[0] == 402
    assert post("payment", "/process", "k3", **{**declined, "method": "paypal"})[0] == 402

    post("payment", "/process", **{**CHARGE, "order_id": "k1"})

    assert effects(shop, "k1") == ["charged", "charged"]


def test_repetitions_at_once_are_one_work(shop, post):
    """Concurrent requests with one key have one effect and one answer."""
    body = {**CHARGE, "order_id": "c1"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post("payment", "/process", "c1", **body), range(8)))

    assert all(answer == answers[0] for answer in answers)
    assert effects(shop, "c1") == ["charged"]


# Faults


@pytest.mark.parametrize(
    ("fault", "works", "seen"),
    [
        (lost(), True, "nothing"),
        (refuse(), False, "nothing"),
        (malformed(), True, "text"),
        (status(503), False, 503),
        (latency(0.05), True, 200),
        (kill(), True, "nothing"),
        (kill(works=False), False, "nothing"),
    ],
)
def test_each_fault_does_what_it_says(shop, fault, works, seen):
    """The work is done before or not at all; the fault is never kept under the key."""
    order = f"f-{fault}-{works}".replace(" ", "")
    body = {**CHARGE, "order_id": order}
    shop.script("payment", "process", order, fault)

    assert answer_of(shop, body) == seen
    assert effects(shop, order) == (["charged"] if works else [])

    assert answer_of(shop, body) == 200
    assert effects(shop, order) == ["charged"]


def answer_of(shop, body):
    url, headers = f"{shop.urls['payment']}/process", {"Idempotency-Key": body["order_id"]}
    try:
        answer = requests.post(url, json=body, headers=headers, timeout=20)
    except requests.ConnectionError:
        return "nothing"
    return answer.status_code if answer.headers["content-type"] != "text/html" else "text"


def test_a_hold_ends_when_its_condition_is_true(shop, post):
    """A held request does its work once the condition holds."""
    free = threading.Event()
    shop.script("payment", "process", "h1", hold(free.is_set, 20))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: post("payment", "/process", **{**CHARGE, "order_id": "h1"}))
        wait_until(lambda: exchanges(shop.ledger.entries, subject="h1"), 20, TimeoutError)
        assert effects(shop, "h1") == []
        free.set()
        assert asked.result()[0] == 200


def test_a_service_can_be_down(shop):
    """A fault for everything stays until it is taken away."""
    url = f"{shop.urls['user']}/health"
    shop.down("user", status(500))
    assert [requests.get(url, timeout=9).status_code for _ in range(2)] == [500, 500]
    shop.down("user", None)
    assert requests.get(url, timeout=9).status_code == 200


def test_failures_can_be_spaced():
    """Where they are, a service fails so often in a row and no more; delays and kills go on."""
    troubles = Troubles()
    row = [lost(), refuse(), latency(0.3), status(500), status(500), status(500), kill()]
    troubles.script("order", "create", "x", row)

    with troubles.spaced(2):
        met = [troubles.next("order", "create", "x") for _ in row]
    assert met == [*row[:5], None, row[6]]
    troubles.script("order", "create", "x", row)
    assert [troubles.next("order", "create", "x") for _ in row] == row


def test_faults_have_names():
    """Each name of a schedule's fault means one; flapping alternates with health."""
    assert [str(f) for f in fault_named("status 429", 1)] == ["status 429"]
    assert fault_named("kill before", 1)[0].works is False
    assert [fault is None for fault in flap(2)] == [False, True, False, True]


def test_a_port_that_is_taken_is_the_labs_fault():
    """A shop on a taken port says so."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(LabFault):
        Shop(ports={"user": other.getsockname()[1]})


@pytest.mark.parametrize(
    ("service", "path", "data", "subject"),
    [
        ("inventory", "/check", {"items": ITEMS}, "tea"),
        ("inventory", "/check", {"items": ITEMS, "order_id": "o1"}, "tea"),
        ("inventory", "/check", {"items": None, "order_id": "o1"}, "o1"),
        ("payment", "/validate", {"method": "paypal", "amount": 12}, "12.00"),
        ("payment", "/validate", CHARGE, "12.30"),
        ("payment", "/validate", {"method": "paypal"}, ""),
        ("payment", "/process", CHARGE, "o1"),
        ("user", "/users/anna/validate", {"order_id": "o1"}, "anna"),
        ("notification", "/send", {"data": {"order_id": "o1"}}, "o1"),
    ],
)
def test_a_validation_is_filed_alike_for_everybody(service, path, data, subject):
    """An order's id that a validation need not name changes nothing: the same faults are met."""
    assert place(service, path, data) == (path.rpartition("/")[2], subject)


# The ledger


def test_the_ledger_is_also_a_file(tmp_path):
    """Each entry is written as a line of JSON at once."""
    file = tmp_path / "ledger"
    ledger = Ledger(file)
    ledger.add("request", 1, "payment", "process", "o", method="POST")
    assert json.loads(file.read_text())["subject"] == "o"
    ledger.close()


def test_a_timeline_tells_requests_effects_and_faults(shop, post):
    """An order's entries stand in one column of time, also those that name no order."""
    shop.script("payment", "process", "t1", status(503))
    post("user", "/users/tom/validate", shipping_address=None)
    for _ in range(2):
        post("payment", "/process", "t1", **{**CHARGE, "order_id": "t1"})

    text = timeline(shop.ledger.entries, ["t1", "tom"])

    assert text.startswith("+  0.00s user")
    assert "key t1" in text and "-> 503  [status 503]" in text and "* charged cents=1230" in text
    assert timeline([], ["x"]) == "(no request)"
    assert len(timeline(shop.ledger.entries * 20, ["t1"], most=10).splitlines()) == 11


# Who waits for an answer


def test_the_process_with_a_connection_is_found(shop):
    """A child that waits for a service is told from one that does not."""
    free = threading.Event()
    shop.script("user", "health", "*", hold(free.is_set, 30))
    url = f"{shop.urls['user']}/health"
    program = f"import urllib.request as w; print(w.urlopen({url!r}).status)"
    idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    busy = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        port = shop.ports["user"]
        wait_until(lambda: connected(psutil.Process(busy.pid), port), 30, TimeoutError)
        assert connected(psutil.Process(idle.pid), port) == []
        mine = {child.pid for child in children(psutil.Process(os.getpid()))}
        assert {idle.pid, busy.pid} <= mine
    finally:
        free.set()
        assert busy.communicate(timeout=30)[0] == b"200\n"
        idle.communicate(b"\n", timeout=30)
    assert connected(psutil.Process(os.getpid()), 1) == []


# By hand


def well(url):
    """Whether a URL answers 200."""
    try:
        return requests.get(url, timeout=9).status_code == 200
    except requests.RequestException:
        return False


def test_the_services_run_by_hand(tmp_path):
    """`python -m grader.services.shop` serves, writes its ledger, and ends on SIGTERM."""
    ports = dict.fromkeys(("user", "order", "payment", "notification", "inventory", "analytics"), 0)
    command = [sys.executable, "-m", "grader.services.shop", "--ports", json.dumps(ports)]
    command += ["--ledger", str(tmp_path / "ledger"), "--trouble", "100", "--seed", "3"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        lines = [run.stdout.readline().split() for _ in ports]
        assert [line[0] for line in lines] == [f"{name}_service" for name in ports]
        assert not all(well(f"{lines[0][1]}/health") for _ in range(30))
    finally:
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
        run.stdout.close()
    assert (tmp_path / "ledger").read_text()
