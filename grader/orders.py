"""What the checks of a shop's orders work with: orders, faults, the wait for the end, the verdict.

    works = Orders(lab)
    order = works.order()
    works.shop.script("payment", "process", order.id, lost())
    works.play([order])
    assert not works.breaches([order])

Everything is read from the services' ledger and the workers' events.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from grader.errors import LabFault, SubmissionFault
from grader.history import Call
from grader.invariants import Breach, Sale, breaches
from grader.ledger import Exchange, exchanges, timeline
from grader.links import children, connected, family
from grader.order import Order, put_off
from grader.process import wait_until
from grader.schedule import Plan
from grader.services.shop.trouble import fault_named

if TYPE_CHECKING:
    import psutil

    from grader.lab import Lab
    from grader.worker import Worker

# Nothing is left to come: no task runs or waits, and the services have been quiet for so long.
QUIET_SECONDS = 3.0
# All is well already and nobody works: there is nothing to wait for.
WELL_SECONDS = 0.4
# Celery takes up to 10 s to see that a process of its pool is gone.
STALL_SECONDS = 15.0
LONGEST = 120.0
# As long as long waits of compensations are to come: nothing bounds these from above.
LONGEST_OF_ALL = 480.0
LOOK_SECONDS = 0.05
ENDED = {"task-succeeded", "task-failed", "task-revoked"}
HOLDER_SECONDS = 20.0


class Orders:
    """Makes orders, sends them, waits for their end and reads what came of them."""

    def __init__(self, lab: Lab) -> None:
        shop = lab.resources.shop
        assert shop is not None
        self.lab, self.shop = lab, shop
        self.shop.on_kill(self._kill)
        self._used: set[int] = lab.once("amounts", set)
        self._seen, self._read, self._changed = 0, 0, time.monotonic()
        self._subjects: set[str] = lab.once("subjects", set)
        self._known: dict[Worker, psutil.Process] = {}
        self._asked_elsewhere = False
        self._killing: dict[int, threading.Lock] = defaultdict(threading.Lock)

    # Making and sending

    def order(
        self,
        *,
        items: int = 1,
        user: str = "user",
        method: str = "credit_card",
        item: str = "",
        quantity: int = 0,
    ) -> Order:
        """Make an order whose id, user, items and amount no other has.

        Args:
            items: how many different items.
            user: what the user's id begins with.
            item: the first item, where it is to be a certain one.
            quantity: of each item; drawn if 0.
        """
        rng = self.lab.rng
        number = len(self._used) + 1
        id = f"ord-{number}-{rng.randrange(16**6):06x}"
        rows = [
            {
                "id": item if item and not n else f"item-{number}-{n}",
                "name": f"Article {number}.{n}",
                "quantity": quantity or rng.randint(1, 3),
                "price": self._cents() / 100,
            }
            for n in range(items)
        ]
        cents = self._cents()
        body = {
            "order_id": id,
            "user_id": f"{user}-{number}",
            "items": rows,
            "total_amount": cents / 100,
            "payment_method": method,
            "shipping_address": {"street": "1 Long Lane", "city": "Porto", "postal_code": "4000"},
        }
        pieces = {str(row["id"]): int(str(row["quantity"])) for row in rows}
        own = [row for row in pieces if row != item]
        aliases = (body["user_id"], f"{cents / 100:.2f}", *own)
        sale = Sale(id, cents, pieces, tuple(map(str, aliases)))
        self._subjects.update(sale.subjects)
        return Order(body, sale)

    def _cents(self) -> int:
        """Draw an amount that no other order has and that binary floats can't hold.

        A hundred times it is whole all the same: what is not is told by an order of its own.
        """
        while True:
            cents = self.lab.rng.randint(1001, 99999)
            if cents % 25 and cents / 100 * 100 == cents and cents not in self._used:
                self._used.add(cents)
                return cents

    def send(self, order: Order) -> Call:
        """Send an order (again); do not wait."""
        call = self.lab.send("process_order", order.body, within=LONGEST)
        order.calls.append(call)
        return call

    def play(self, orders: Sequence[Order], cap: float = LONGEST) -> Sequence[Order]:
        """Send orders all at once, wait for the end of everything, and return them."""
        self._mains()
        for order in orders:
            self.send(order)
        self.settle(orders, cap)
        return orders

    # Waiting

    def settle(self, orders: Sequence[Order], cap: float = LONGEST) -> None:
        """Wait until there is nothing left to come.

        That is: every call has its result, every invariant holds and nobody works; or nothing has
        happened for QUIET_SECONDS and no task is under way; or, where a task never ended, for
        STALL_SECONDS; or `cap` seconds are over. The last two don't count while something is
        missing and a task that was put off for long is soon to come.
        """
        calls = [call for order in orders for call in order.calls]
        self._changed = time.monotonic()
        deadline, last = self._changed + cap, self._changed + max(cap, LONGEST_OF_ALL)

        def over() -> bool:
            if not any(worker.alive for worker in self.lab._workers):
                raise self.lab.worker.death()
            quiet, ended, now = self.quiet_for(), self.ended(calls), time.monotonic()
            if quiet > STALL_SECONDS or now > deadline:
                return now > last or not self._to_come(orders, calls)
            if ended and quiet > WELL_SECONDS and not self.lab.publisher.fetch(calls):
                return quiet > QUIET_SECONDS or not self.breaches(orders)
            return ended and quiet > QUIET_SECONDS

        while not self.lab.until(over, within=LOOK_SECONDS):
            pass
        self.lab.publisher.fetch(calls)
        if not self.ended(calls):
            self.lab.dirty = True

    def answered(self, calls: Sequence[Call], within: float) -> bool:
        """Wait so many seconds for the results of these calls; return whether all are there."""
        return bool(self.lab.until(lambda: not self.lab.publisher.fetch(calls), within))

    def quiet_for(self) -> float:
        """Return for how many seconds no worker was heard of, and no order at a service.

        Requests for what is no order of ours are nobody's work: they could go on for ever.
        """
        events, entries = len(self.lab.history.events), self.shop.ledger.entries
        new = entries[self._read :]
        if events != self._seen or any(entry.subject in self._subjects for entry in new):
            self._changed = time.monotonic()
        self._seen, self._read = events, len(entries)
        return time.monotonic() - self._changed

    def ended(self, calls: Sequence[Call] = ()) -> bool:
        """Whether every task that a worker received has ended, these among them.

        A task that replaced itself keeps its id, and ends when what replaced it does.
        """
        last = self._last()
        heard = all(call.reply or call.id in last for call in calls)
        return heard and all(kind in ENDED for kind in last.values())

    def _last(self) -> dict[str, str]:
        """Return the kind of the last event of each task."""
        last: dict[str, str] = {}
        for event in tuple(self.lab.history.events):
            kind, id = str(event.get("type")), str(event.get("uuid"))
            if kind == "task-received" or (kind.startswith("task-") and last.get(id) not in ENDED):
                last[id] = kind
        return last

    def _to_come(self, orders: Sequence[Order], calls: Sequence[Call]) -> bool:
        """Whether something is missing that a task may still bring which was put off for long."""
        if not self.lab.publisher.fetch(calls) and not self.breaches(orders):
            return False
        ended = {id for id, kind in self._last().items() if kind in ENDED}
        return put_off(tuple(self.lab.history.events), self.lab.worker.speed, ended)

    # Reading

    def seen(self, service: str, route: str, order: Order | None = None) -> list[Exchange]:
        """Return the requests on a route, those of one order if it is given."""
        found = exchanges(self.shop.ledger.entries, service, route)
        return [e for e in found if order is None or e.subject in order.sale.subjects]

    def effects(self, order: Order, name: str) -> list[dict[str, Any]]:
        """Return the effects of that name on an order."""
        return [
            dict(entry.what)
            for entry in self.shop.ledger.entries
            if entry.kind == "effect"
            and entry.subject == order.id
            and entry.what.get("effect") == name
        ]

    def breaches(self, orders: Sequence[Order]) -> list[Breach]:
        """Return what is wrong with these orders."""
        results = {order.id: order.status for order in orders}
        return breaches(self.shop.ledger.entries, [order.sale for order in orders], results)

    def timeline(self, order: Order) -> str:
        """Return what happened to an order, a line each."""
        return "\n" + timeline(self.shop.ledger.entries, order.sale.subjects)

    # Killing

    def killed(self) -> None:
        """Make sure that every request which met a kill had its process killed.

        Raises:
            SubmissionFault: one was sent by a process of the worker's that is none of its pool.
            LabFault: one was not found in time.
        """
        met = [each for each in self.seen("", "") if each.fault.startswith("kill")]
        if missed := [each for each in met if each.answered != "killed"]:
            place = f"{missed[0].service} {missed[0].route}"
            if self._asked_elsewhere:
                raise SubmissionFault("asked_elsewhere", place=place)
            raise LabFault("kill_missed", place=place)

    def _kill(self, port: int, client: int) -> bool:
        """Kill the pool's child that has a request at this port; called on a service's thread.

        One after the other: two who look at the same moment find the same child.
        """
        with self._killing[port]:
            return self._kill_holder(port, client)

    def _kill_holder(self, port: int, client: int) -> bool:
        from grader.faults import kill_child

        before: list[tuple[psutil.Process, psutil.Process]] = []

        def settled() -> bool:
            # Answers that left just now have arrived when the same ones are seen again.
            seen = self._holders(port, client)
            same, before[:] = seen == before, seen
            return bool(seen) and same

        if not wait_for(settled):
            self._asked_elsewhere |= self._elsewhere(port)
            return False
        with contextlib.suppress(LabFault):  # it died by itself just now
            kill_child(before[0][0], self.lab.history.faults, before[0][1])
            return True
        return False

    def _mains(self) -> list[psutil.Process]:
        """Return the workers' main processes; looking for one takes long on a busy machine."""
        for worker in self.lab._workers:
            if worker.alive and worker not in self._known:
                self._known[worker] = worker.main
        return [main for worker, main in self._known.items() if worker.alive]

    def _elsewhere(self, port: int) -> bool:
        """Whether a process of a worker's is connected to the port that is none of its pool's."""
        pool = {p for main in self._mains() for child in children(main) for p in family(child)}
        everybody = {p for worker in self._known for p in worker.child.family}
        return any(connected(process, port) for process in everybody - pool)

    def _holders(self, port: int, client: int) -> list[tuple[psutil.Process, psutil.Process]]:
        """Return (worker, child) for each child that has a connection to the port, or started one.

        Its own end of the connection tells the child. Behind a relay it is another one: then any
        child with a connection will do, because each of them waits for an answer (see Desk).
        """
        talking = [
            (main, child, [own for each in family(child) for own in connected(each, port)])
            for main in self._mains()
            for child in children(main)
        ]
        exact = [(main, child) for main, child, ports in talking if client in ports]
        return exact or [(main, child) for main, child, ports in talking if ports]

    # Schedules

    def arrange(self, plans: Sequence[Plan], slow: float) -> list[Order]:
        """Make the orders of a schedule and script their faults.

        Args:
            slow: seconds after which a client has given up.
        """
        # Two in three of those who want it can have it.
        wanting = sum(plan.scarce for plan in plans)
        scarce = f"scarce-{len(self._used)}"
        self.shop.stock(scarce, max(1, wanting * 2 // 3))
        return [self._arranged(plan, scarce, slow) for plan in plans]

    def _arranged(self, plan: Plan, scarce: str, slow: float) -> Order:
        order = self.order(
            user=plan.user,
            method=plan.method,
            item=scarce if plan.scarce else "",
            quantity=1 if plan.scarce else 0,
        )
        for trouble in plan.troubles:
            faults = [f for name in trouble.faults for f in fault_named(name, slow)]
            self.shop.script(
                trouble.service,
                trouble.route,
                self.subject(order, trouble.service, trouble.route),
                *faults,
            )
        return order

    def subject(self, order: Order, service: str, route: str) -> str:
        """Return what stands for the order in the requests of a route."""
        return {
            ("user", "validate"): order.body["user_id"],
            ("inventory", "check"): order.item,
            ("payment", "validate"): order.amount,
        }.get((service, route), str(order.id))


def wait_for(ready: Callable[[], bool]) -> bool:
    """Wait a moment for a condition, on a thread that is not the check's."""
    with contextlib.suppress(TimeoutError):
        return wait_until(ready, HOLDER_SECONDS, TimeoutError, every=0.02)
    return False
