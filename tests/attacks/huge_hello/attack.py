"""Answers before it is asked, with more than anybody can read."""

import json
import os

from attack_kit import is_worker, ran

NAMES = [f"task{number}" for number in range(300_000)]
ANSWERS = [{"value": {"tasks": NAMES, "routes": {}, "result_key": "celery-task-meta-{}"}}]


def say(document):
    for descriptor in range(3, 12):
        try:
            os.write(descriptor, json.dumps(document).encode() + b"\n")
        except OSError:
            pass


ran()
if not is_worker():
    for answer in ANSWERS:
        say(answer)
