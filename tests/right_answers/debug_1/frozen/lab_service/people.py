"""Customers, remembered in a table in memory."""

import hashlib
import json
import os
import sqlite3

from celery import shared_task

SEGMENTS = ("new", "casual", "regular", "loyal", "champion")


class Memory:
    """The 128 customers that came last. One connection a process."""

    def __init__(self, room=128):
        self.room, self.pid, self.base = room, None, None

    def table(self):
        """Return the connection of this very process."""
        if self.pid != os.getpid():
            self.base, self.pid = sqlite3.connect(":memory:", isolation_level=None), os.getpid()
            self.base.execute(
                "CREATE TABLE known (id INTEGER PRIMARY KEY AUTOINCREMENT, customer TEXT UNIQUE, facts TEXT)"
            )
        return self.base

    def get(self, customer):
        """Return what is known of a customer, or None."""
        found = (
            self.table()
            .execute("SELECT facts FROM known WHERE customer = ?", (customer,))
            .fetchone()
        )
        return json.loads(found[0]) if found else None

    def put(self, customer, facts):
        """Keep it; the oldest goes."""
        table = self.table()
        table.execute(
            "INSERT OR REPLACE INTO known (customer, facts) VALUES (?, ?)", (customer, facts)
        )
        table.execute(
            "DELETE FROM known WHERE id NOT IN (SELECT id FROM known ORDER BY id DESC LIMIT ?)",
            (self.room,),
        )


memory = Memory()


@shared_task(name="memory_debug.enrich")
def enrich(user_id):
    """Return what marketing wants to know of a customer."""
    if not isinstance(user_id, str) or not user_id.strip():
        raise ValueError(f"{user_id!r} is no user id")
    encoded = user_id.encode()
    facts = memory.get(encoded)
    if facts is None:
        hours = hashlib.pbkdf2_hmac("sha256", encoded, b"profile", 120, dklen=8192)
        score = round(sum(hours) / len(hours) / 2.55, 3)
        facts = {
            "score": score,
            "segment": SEGMENTS[min(int(score * 10) % 5, 4)],
            "recent": [round(hour / 2.55, 2) for hour in hours[-3:]],
        }
        memory.put(encoded, json.dumps(facts))
    return {"user_id": user_id, **facts}
