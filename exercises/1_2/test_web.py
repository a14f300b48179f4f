"""The web page of exercise 1_2 (challenge 3): asked over HTTP, while a real worker calculates."""

from __future__ import annotations

import uuid

from grader.check import check, hint
from grader.services.browse import ask

BOOT_SECONDS = 15


class Site:
    """The submission's page, on a free port of its own."""

    def __init__(self, lab):
        self.lab, self.port = lab, lab.free_port()
        self.child = lab.start_program("web.py", "--port", str(self.port))
        self.front = self.boot()

    @property
    def last_words(self):
        """The last line that the program printed, if it has ended."""
        lines = self.child.output.text.strip().splitlines()
        return f"({lines[-1].strip()[:200]})" if lines and not self.child.alive else ""

    def ask(self, method, path, **options):
        """Send one request."""
        return ask(method, f"http://127.0.0.1:{self.port}{path}", **options)

    def boot(self):
        """Wait for the page at / and return it."""
        page = self.ask("GET", "/")

        def up():
            nonlocal page
            page = self.ask("GET", "/", within=2)
            return page.status or not self.child.alive

        self.lab.until(up, within=BOOT_SECONDS)
        return page

    def post(self, operation, *args):
        """Ask for a calculation."""
        return self.ask("POST", "/calculations", data={"operation": operation, "args": list(args)})

    def outcome(self, id):
        """Ask for a calculation until it has ended one way or the other; return the last answer."""
        page = self.ask("GET", f"/calculations/{id}")

        def ended():
            nonlocal page
            page = self.ask("GET", f"/calculations/{id}")
            return page.status != 200 or page.json.get("result") is not None or error_of(page)

        self.lab.until(ended, within=5)
        return page


def error_of(page):
    """Return the error that an answer tells, "" if there is none."""
    return str(page.json.get("error") or "")


def site_of(lab):
    """Return the lab's site, started on first use."""
    return lab.once("site", lambda: Site(lab))


@check
def test_web_calculates(lab):
    """Challenge 3: a page with a form takes a calculation (202), tells its state and its result."""
    site, a = site_of(lab), lab.rng.randint(2, 999)

    log = site.last_words
    front = site.front
    assert lab.fact(
        front.status == 200, "web_status", what="GET /", wanted=200, seen=front, log=log
    )
    assert lab.fact("<form" in front.text.lower(), "web_form", seen=front)
    for row, result, error in ((("add", a, 0.5), a + 0.5, ""), (("divide", a, 0), None, "Zero")):
        with lab.tapped():
            before = len(lab.history.messages)
            posted = site.post(*row)
            lab.until(lambda n=before: len(lab.history.messages) > n, within=2)
            sent = len(lab.history.messages) - before
        said = {"what": f"POST /calculations {row}", "wanted": 202, "seen": posted, "log": ""}
        assert lab.fact(posted.status == 202 and posted.json.get("id"), "web_status", **said)
        assert lab.fact(sent, "web_by_worker", seen=sent), hint("not_sent")
        page = site.outcome(posted.json["id"])
        right = page.json.get("result") == result and (not error or error_of(page))
        right = right and page.json.get("id") == posted.json["id"] and page.json.get("state")
        wanted = {"result": result} if not error else {"error": "ZeroDivisionError"}
        assert lab.fact(right, "web_outcome", row=row, wanted=wanted, seen=page)


@check(after=test_web_calculates)
def test_web_refuses(lab):
    """Challenge 3: an unknown operation or broken JSON is 422, an unknown id is 404."""
    site, word = site_of(lab), "".join(lab.rng.choices("bcdfghjk", k=6))
    unknown = site.post(word, 1, 2)
    broken = site.ask("POST", "/calculations", raw='{"operation": "add", "args": [1,')
    lost = site.ask("GET", f"/calculations/{uuid.UUID(int=lab.rng.getrandbits(128), version=4)}")

    for what, page, wanted in (
        (f"POST /calculations with the operation {word!r}", unknown, 422),
        ("POST /calculations with broken JSON", broken, 422),
        ("GET /calculations/<unknown id>", lost, 404),
    ):
        said = {"what": what, "wanted": wanted, "seen": page, "log": ""}
        assert lab.fact(page.status == wanted, "web_status", **said), hint("refusals")


@check(after=test_web_calculates)
def test_web_stays_responsive(lab):
    """Challenge 3: while a calculation waits for the worker, the page answers other requests."""
    site = site_of(lab)

    with lab.frozen():
        posted = site.post("add", 20, 22)
        front = site.ask("GET", "/")
        waiting = site.ask("GET", f"/calculations/{posted.json.get('id')}")
    page = site.outcome(posted.json.get("id"))

    for what, seen, wanted in (
        ("POST /calculations", posted, 202),
        ("GET /", front, 200),
        ("GET /calculations/<id>", waiting, 200),
    ):
        said = {"what": what, "wanted": wanted, "seen": seen}
        assert lab.fact(seen.status == wanted, "web_busy", **said), hint("blocks")
    said = {"row": ("add", 20, 22), "wanted": {"result": 42.0}, "seen": page}
    assert lab.fact(page.json.get("result") == 42, "web_outcome", **said)
