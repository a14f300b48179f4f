"""Answers before it is asked and leads astray."""

import json
import os

from attack_kit import is_worker, ran

NAME = "q" * 70_000
ANSWERS = [{"value": {"tasks": [], "routes": {"lab.ready": {"queue": NAME}}, "result_key": NAME}}]


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
