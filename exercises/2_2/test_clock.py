"""A real beat in a faster time: a Monday at one, what expires, and a start without Redis."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from grader import beat
from grader.check import check, hint, named
from grader.history import HAIL
from grader.simulation import Simulation

MODULE = "scheduled_tasks."
HEALTH = MODULE + "system_health_check"
SUMMARY, REFRESH = MODULE + "summarize_user_activity", MODULE + "refresh_cache"
# Due by one o'clock. So is the summary, but whether it is one of Mondays is judged elsewhere.
DUE = (HEALTH, REFRESH)
EXPIRY = named("expiry")  # in test_schedule.py
BOOT, PATIENT = 20.0, 30.0
# Longer than a client's own retries last.
OUTAGE = 12.0


class Monday:
    """A real beat that begins on a Monday at 00:45, sixty times as fast as the clock.

    With faketime it is the unmodified program. To that library a wait for a lock never ends, a
    socket's timeout is over sixty times as soon, and who boots slowly is too late for one o'clock:
    so a beat that does not send everything there has a second chance, as where there is no
    faketime, with its sleeps shortened. The worker stands still meanwhile. The date is long ago:
    what has an expiry is expired when the worker goes on.
    """

    def __init__(self, lab):
        self.lab, self.messages = lab, []
        self.begin = datetime(2024, 3, 4, 0, 45, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()
        with lab.tapped(), lab.frozen():
            if beat.faketime():
                self.how = "faketime"
                self.run("monday", lambda twin: beat.start(twin.place, faked=self.begin), within=30)
            if not self.complete:
                self.how = "simulation x60"
                self.run("again", self.simulation, within=60)
        if not self.complete and not self.child.alive:
            raise beat.death(self.child)
        self.child.end()

    def simulation(self, twin):
        """Start a beat whose sleeps are shortened."""
        leg = (self.begin, self.begin + 3600)
        return Simulation(twin, [leg], pace=60).child

    def run(self, name, start, within):
        """Let a beat publish until everything that is due by then was seen, or it has ended."""
        urls = {
            "CELERY_BROKER_URL": self.lab.space.student_broker,
            "CELERY_RESULT_BACKEND": self.lab.space.student_backend,
        }
        before = len(self.lab.history.messages)
        self.child = self.lab.adopt_child(start(self.lab.twin(name, urls)))

        def over():
            self.seen = {m.task for m in self.lab.history.messages[before:]}
            return self.complete or not self.child.alive

        self.lab.until(over, within=within)
        self.messages += self.lab.history.messages[before:]
        if not self.complete and self.how == "faketime":
            self.child.end()

    @property
    def complete(self):
        """Whether everything that is due by then was seen."""
        return set(DUE) <= getattr(self, "seen", set())


def monday(lab):
    """Return that Monday."""
    return lab.once("monday", lambda: Monday(lab))


@check(after=named("sends_all_five"), lane="clock")
def test_fires_for_real(lab):
    """A real beat publishes what is due where a worker reads it: a Monday at one, sixtyfold."""
    run = monday(lab)
    missing = [t.removeprefix(MODULE) for t in DUE if t not in run.seen]
    seen = ", ".join(sorted(run.seen - {HAIL})) or "-"
    said = {"missing": ", ".join(missing), "seen": seen, "how": run.how}
    assert lab.fact(not missing, "published", **said)
    lab.await_worker(lab.worker)
    queues = {m.queue for m in run.messages if m.task in DUE}
    unread = sorted(queue for queue in queues if not lab.takes_from(queue))
    assert lab.fact(not unread, "unread", seen=", ".join(unread)), hint("unread")


@check(after=(test_fires_for_real, EXPIRY), lane="clock")
def test_expired_not_run(lab):
    """What expired while no worker ran is not executed when one is back."""
    run = monday(lab)
    lab.await_worker(lab.worker)
    jobs = [m for m in run.messages if m.task in (HEALTH, SUMMARY, REFRESH)]
    calls = [lab.adopt(m.id, m.task.removeprefix(MODULE)) for m in jobs]
    lab.until(lambda: not lab.publisher.fetch(calls))
    ran = [str(c) for c in calls if c.reply and (c.reply.succeeded or c.reply.failed)]
    with lab.redis["ops"].client() as client:
        ran += [key.decode() for key in client.keys("cache:*")]
    assert lab.fact(not ran, "ran_expired", seen=ran[:5])


@check(after=test_fires_for_real, lane="clock")
def test_recovers(lab):
    """A beat that is started while its Redis is down does its work once Redis is back."""
    twin = lab.twin("recovers")
    for server in twin.servers.values():
        server.down(hard=True)
    begin = datetime(2024, 3, 4, 12, 0, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()
    # The health check is due every second.
    run = Simulation(twin, [(begin, begin + 86400)], pace=300)
    lab.adopt_child(run.child)
    try:
        lab.until(lambda: run.conf or not run.child.alive, within=BOOT)
        lab.until(lambda: not run.child.alive, within=OUTAGE)
    finally:
        for server in twin.servers.values():
            server.up()
    before = run.published()
    lab.until(lambda: run.published() > before + 2 or not run.child.alive, within=PATIENT)
    log = run.child.output.text.strip().splitlines()[-1:]
    seen = run.published() - before
    said = {"seen": seen, "alive": run.child.alive, "log": log}
    good = run.child.alive and seen > 2
    run.child.end()
    assert lab.fact(good, "recovers", **said), hint("died" if not said["alive"] else "default")
