"""Files that can't be read are told with their place; whatever else comes is judged."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grader.containers import rules
from grader.containers.complaint import Broken
from grader.containers.dockerfile import Dockerfile
from grader.containers.project import load
from grader.containers.variables import UNKNOWN, expand, names
from tests.containers.plain import BONUS, CORE, DOCKERFILE, changed, complaints

# What can't be read


BROKEN = {
    "a tab": ("services:\n\tredis: x", "line 2, column 1"),
    "unclosed": ("services: [a\nb: c", "line 2"),
    "twice": ("services:\n  a: {image: x}\n  a: {image: y}", "line 3"),
    "a list at the top": ("- redis\n", "line 1, column 1"),
    "empty": ("", "line 1, column 1"),
    "a list of services": ("services:\n  - redis\n", "line 1, column 1"),
    "ports as a mapping": ("services:\n  redis:\n    image: x\n    ports:\n      a: 1\n", "line 4"),
    "a text for ports": ("services:\n  redis:\n    image: x\n    ports: '1'\n", "line 4"),
    "unknown key": ("services:\n  redis:\n    image: x\n    port: []\n", "line 4"),
    "unknown key at the top": ("service: {}\n", "line 1"),
    "a wrong condition": (
        "services:\n  a:\n    image: x\n    depends_on:\n      b: {condition: healthy}\n",
        "line 5",
    ),
    "endless": ("a: &a\n  b: *a\n", "too big"),
    "a bomb": (
        "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"x-{b}: &{b} [{', '.join(['*' + a] * 10)}]\n"
            for a, b in zip("abcdef", "bcdefg", strict=True)
        ),
        "too big",
    ),
    "deep": ("a: " + "[" * 3000, ""),
    "a strange tag": ("services: !!python/object:os.system {}\n", "line 1"),
    "extends nobody": ("services:\n  a:\n    extends: b\n", "line 3"),
    "extends itself": ("services:\n  a: {extends: b}\n  b: {extends: a}\n", "line"),
    "extends outside": ("services:\n  a: {extends: {file: ../x.yml, service: a}}\n", "outside"),
    "includes what is not there": ("include: [no.yml]\nservices: {}\n", "no.yml"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_told_with_their_place(make, text, words):
    """What can't be read ends in a sentence with line and column in both languages."""
    with pytest.raises(Broken) as caught:
        make(text)

    assert words in caught.value.complaint.seen.render("en")
    assert caught.value.complaint.seen.render("zh") and caught.value.complaint.wanted.render("zh")


def test_kinds_are_named(make):
    """A list where a mapping belongs is said in those words."""
    with pytest.raises(Broken, match=r"services should be a mapping .* and is a list"):
        make("services:\n  - redis\n")
    with pytest.raises(Broken, match=r"unknown in services.redis: port"):
        make("services:\n  redis:\n    image: x\n    port: []\n")


def test_a_missing_file_is_told(tmp_path):
    """Without docker-compose.yml there is a sentence that names it."""
    with pytest.raises(Broken, match=r"no docker-compose\.yml"):
        load(tmp_path)


def test_a_missing_dockerfile_is_told(make):
    """A service that is built from no file is a complaint with the file's name."""
    with pytest.raises(Broken, match="no Dockerfile"):
        rules.pinned(make(dockerfile=None))


def test_the_version_key_is_mentioned(make):
    """Where the file is not valid and has the obsolete key, the hint speaks of it."""
    with pytest.raises(Broken) as caught:
        make("version: '3'\nservices: []\n")

    assert caught.value.complaint.hint == "obsolete_version"


# Whatever comes


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="${}:-?+AB_ \\", max_size=30))
def test_any_text_can_be_expanded(text):
    """No text makes the reader of variables fail or loop, and none of its names is empty."""
    assert isinstance(expand(text), str)
    assert all(re.fullmatch(r"\w+", name) for name in names(text))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$A", UNKNOWN),
        ("${A}", UNKNOWN),
        ("${A:-b}c", "bc"),
        ("${A-b}", "b"),
        ("${A:?why}", UNKNOWN),
        ("${A:+b}", ""),
        ("${A:-${B:-c}}", "c"),
        ("${A:-x${B}}", "x" + UNKNOWN),
        ("$$A", "$A"),
        ("${A:-{}}", "{}"),
        ("5$", "5$"),
        ("${}", "${}"),
    ],
)
def test_variables_are_replaced_by_their_defaults(text, wanted):
    """Compose's forms of a variable give what they give with an empty environment."""
    assert expand(text) == wanted


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='FROMCDENV \\\n["]#=<:.-axy1', max_size=80))
def test_any_dockerfile_can_be_read(text):
    """No text makes the reader of Dockerfiles fail or loop."""
    file = Dockerfile.parse(text)

    assert all(isinstance(image, str) for image in file.images({}))
    file.last("CMD")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab:$/.1 ", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)
KEYS = ("ports", "healthcheck", "depends_on", "environment", "command", "init", "user", "image")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KEYS), VALUES)
def test_odd_values_are_judged_or_refused(tmp_path_factory, key, value):
    """Whatever stands at a key, there is a verdict: the schema's or the rules'."""
    folder = tmp_path_factory.mktemp("odd")
    text = changed("    init: true\n", f"    init: true\n    {key}: {json.dumps(value)}\n")
    if key in ("depends_on", "environment", "command", "init"):
        text = text.replace(
            "  worker:\n", f"  odd:\n    image: a:1\n    {key}: {json.dumps(value)}\n  worker:\n", 1
        )
        text = text.replace(f"    init: true\n    {key}: {json.dumps(value)}\n", "    init: true\n")
    (folder / "docker-compose.yml").write_text(text)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    try:
        complaints(load(folder), CORE | BONUS)
    except Broken as broken:
        broken.complaint.seen.render("zh")
