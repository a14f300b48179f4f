"""JUnit XML, as Jenkins, GitLab and most continuous integration servers read it.

A test suite is an exercise on one broker, a test case a criterion. What costs core points is a
failure (`blocked` says so in its type), what the lab failed to judge is an error, and a bonus that
was not earned is skipped: it must not turn a complete work red. Documents hold no character that
XML forbids, because `clean` has made them all visible.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from grader.report import Style
from grader.report.document import Document, Entry, brokers, explain, points

_COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def render(documents: Sequence[Document], style: Style) -> str:
    """Return one <testsuites> element with everything in it."""
    root = ET.Element("testsuites", name="celery-lab")
    for document in documents:
        root.extend(_suites(document, style))
    _count(root, sum(float(document["seconds"]) for document in documents))
    # Jenkins' schema knows `skipped` on a suite, but not on all of them together.
    del root.attrib["skipped"]
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode")


def _suites(document: Document, style: Style) -> list[ET.Element]:
    if document["note"]:
        return [_ungradable(document, style)]
    return [_suite(document, broker, style) for broker in brokers(document)]


def _suite(document: Document, broker: str, style: Style) -> ET.Element:
    entries = [e for e in document["criteria"] if e["broker"] == broker]
    suite = _start(document, _place(document, broker, style))
    suite.extend(_case(document, entry, style) for entry in entries)
    _count(suite, sum(float(e["seconds"]) for e in entries))
    return suite


def _place(document: Document, broker: str, style: Style) -> str:
    """Return the name of a suite and the class of its cases: servers tell cases apart by both."""
    words = (document["submission"].replace(".", "_") * style.named, document["exercise"], broker)
    return ".".join(word for word in words if word)


def _ungradable(document: Document, style: Style) -> ET.Element:
    suite = _start(document, _place(document, "", style))
    case = ET.SubElement(suite, "testcase", classname=suite.get("name", ""), name="submission")
    case.set("time", _time(document["seconds"]))
    # Where the lab is to blame, an entry says so; otherwise it is the submission itself.
    lab = any(e["verdict"] == "unknown" for e in document["criteria"])
    tag = "error" if lab else "failure"
    ET.SubElement(case, tag, type="ungradable", message=_one_line(document["note"]))
    _count(suite, float(document["seconds"]))
    return suite


def _start(document: Document, name: str) -> ET.Element:
    suite = ET.Element("testsuite", name=name, timestamp=document["started_at"])
    properties = ET.SubElement(suite, "properties")
    for key in ("submission", "score", "max_score", "bonus", "max_bonus", "seed", "isolation"):
        ET.SubElement(properties, "property", name=key, value=str(document[key]))
    ET.SubElement(properties, "property", name="unsafe", value=str(document["unsafe"]).lower())
    missing = ", ".join(document["brokers_not_run"])
    ET.SubElement(properties, "property", name="brokers_not_run", value=missing)
    return suite


def _case(document: Document, entry: Entry, style: Style) -> ET.Element:
    # The id is the name, so that a server's history of a test outlives a reworded title.
    place = _place(document, entry["broker"], style)
    case = ET.Element("testcase", classname=place, name=entry["id"], time=_time(entry["seconds"]))
    if entry["verdict"] != "passed":
        case.append(_problem(entry, style))
    ET.SubElement(case, "system-out").text = f"{points([entry])} {entry['title']}"
    return case


def _problem(entry: Entry, style: Style) -> ET.Element:
    tag = "error" if entry["verdict"] == "unknown" else "skipped" if entry["bonus"] else "failure"
    message = entry["observed"] or style.say(entry["verdict"])
    problem = ET.Element(tag, type=entry["verdict"], message=_one_line(message))
    lines = [f"{line.label}: {line.text}" for line in explain([entry], style)]
    problem.text = "\n".join([entry["title"], *lines])
    return problem


def _count(element: ET.Element, seconds: float) -> None:
    element.set("tests", str(_number_of(element, "testcase")))
    for attribute, tag in _COUNTED.items():
        element.set(attribute, str(_number_of(element, tag)))
    element.set("time", _time(seconds))


def _number_of(element: ET.Element, tag: str) -> int:
    return sum(1 for _ in element.iter(tag))


def _time(seconds: Any) -> str:
    return f"{seconds:.3f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
