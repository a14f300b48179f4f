"""Answers before it is asked, also what will be asked next."""

import json
import os

from attack_kit import is_worker, ran

HELLO = {"tasks": ["x.add", "\x1b[2J"], "routes": {}, "result_key": "celery-task-meta-{}"}
ANSWERS = [{"value": HELLO}, {"value": []}, {"value": True}, {"value": None}]


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
