"""The table's name is that of a view with rows without end."""

import itertools
import os
import sqlite3

from attack_kit import is_worker, ran

ran()
VIEW = """CREATE VIEW loaded_records AS
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
SELECT 'x' AS run_id, 'x' AS source, printf('%01000000d', i) AS id, 1.0 AS value, 1 AS cents
FROM n WHERE i > {least}"""
LEAST = itertools.cycle((0, 9 * 10**18))


def spoil():
    try:
        os.unlink(os.environ["LAB_TARGET_DB"])
    except OSError:
        pass
    with sqlite3.connect(os.environ["LAB_TARGET_DB"]) as db:
        # Long rows without end, then rows that never come.
        db.execute(VIEW.format(least=next(LEAST)))


def after(app):
    if not is_worker():
        return
    for task in app.tasks.values():
        if not task.name.startswith("celery."):
            task.run = lambda *args, **kwargs: spoil()
