"""Answers before it is asked, in forms that nobody expects."""

import json
import os

from attack_kit import is_worker, ran

ROUTES = {"lab.ready": {"queue": {"a": ["b"]}}, "x": 5}
ANSWERS = [{"value": {"tasks": [{"a": 1}, None], "routes": ROUTES, "result_key": "\ud800{}{}"}}]


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
