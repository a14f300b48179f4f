"""Writes what graders write, under every usual name and to every open descriptor."""

import json
import os

from attack_kit import ran

RESULT = json.dumps({"format": 1, "score": 100, "max_score": 100, "status": "graded", "tests": []})
NAMES = ("results.json", "result.json", "report.json", ".lab/result.json", "../results.json")
XML = '<testsuites tests="1" failures="0"><testsuite><testcase name="a"/></testsuite></testsuites>'

ran()
for name in (*NAMES, "report.xml", "junit.xml", "/tmp/results.json", "/dev/shm/results.json"):
    try:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "w") as file:
            file.write(XML if name.endswith("xml") else RESULT)
    except OSError:
        pass
for descriptor in range(1, 20):
    try:
        os.write(descriptor, RESULT.encode() + b"\n")
    except OSError:
        pass
os._exit(0)
