"""The rules of the extension challenges, in the manner of rules.py."""

from __future__ import annotations

import re
from typing import Any

from grader.containers.command import command, folders, script
from grader.containers.complaint import Broken, Complaint, said
from grader.containers.dockerfile import words as exec_form
from grader.containers.document import read_text
from grader.containers.health import Test, test_of
from grader.containers.project import Project, text_of
from grader.containers.rules import BROKERS, SERVICES, host_of
from grader.containers.variables import UNKNOWN, expand, names

EXAMPLE = ".env.example"


def worker_health(project: Project) -> Complaint | None:
    """The worker's health check asks this very worker."""
    test = _worker_test(project)
    if test.problem:
        return said("containers_asks", "containers_asks_seen", seen=test.shown)
    if not _pings(project, test):
        return said("containers_asks", "containers_asks_seen", seen=test.shown)
    name = _destination(test)
    if name is None:
        return (
            None
            if _script_asks(project, test)
            else said("containers_asks", "containers_asks_seen", "anybody", seen=test.shown)
        )
    if mistake := _not_its_own(project, name, test.shell):
        seen = test.shown.replace(UNKNOWN, "?")
        return said("containers_asks", "containers_asks_seen", mistake, seen=seen)
    return None


def _not_its_own(project: Project, names: str, shell: bool) -> str:
    """Return the hint that fits where the names are not all the worker's own, "" where they are."""
    for name in names.split(","):
        if name in _own_names(project) or ("$" in name and shell and UNKNOWN not in name):
            continue
        # `inspect` takes a name as it is: only the worker itself expands %h.
        return "unexpanded" if any(sign in name for sign in ("$", "%", UNKNOWN)) else "other_name"
    return ""


def _own_names(project: Project) -> set[str]:
    """Return what the worker calls itself, as far as the files say it.

    Without `hostname` a container is called by its id, which no file knows.
    """
    hosts = [text_of(project.services["worker"].get("hostname"))]
    hosts.append(f"{hosts[0]}.{text_of(project.services['worker'].get('domainname'))}")
    words = " ".join(command(project, "worker")).split()
    given = re.search(r"(?:^| )(?:-n|--hostname)[ =]?[\"']?([^\s\"']+)", " ".join(words))
    name = given[1] if given else "%h"
    name = name if "@" in name else f"celery@{name}"
    found = set()
    for host in hosts:
        short, _, domain = host.partition(".")
        full = name.replace("%h", host).replace("%n", short).replace("%d", domain)
        if host.strip(".") or not re.search("%[hnd]", name):
            found.add(full.replace("%%", "%"))
    return found


def _worker_test(project: Project) -> Test:
    """Return the worker's health check; without one in the compose file the Dockerfile's."""
    check = project.services["worker"].get("healthcheck")
    if isinstance(check, dict) and check.get("test") is not None:
        return test_of(check)
    written = project.instruction("worker", "HEALTHCHECK") or ""
    text = re.sub(r"^(--\S+\s+)*CMD\s+", "", written)
    if not text:
        return test_of(check)
    words = exec_form(text)
    return test_of({"test": ["CMD", *words] if words else text.replace("$", "$$")})


def _pings(project: Project, test: Test) -> bool:
    text = " ".join(test.words)
    return bool(re.search(r"\binspect\b.*\bping\b", text)) or _script_asks(project, test)


def _destination(test: Test) -> str | None:
    """Return the node name behind -d or --destination, None without one."""
    words = list(test.words)
    for place, word in enumerate(words):
        if word in ("-d", "--destination") and place + 1 < len(words):
            return words[place + 1]
        if word.startswith("--destination="):
            return word.partition("=")[2]
        if re.match(r"-d[^-]", word):
            return word[2:]
    return None


def _script_asks(project: Project, test: Test) -> bool:
    """Whether a script of the submission pings one destination."""
    texts = [script(word, folders(project, "worker")) for word in test.words if word.strip("/.")]
    return any("ping" in text and re.search(r"destination|-d\b", text) for text in texts)


def env_example(project: Project) -> Complaint | None:
    """`.env.example` names each variable that the compose files use."""
    try:
        text = read_text(project.root / EXAMPLE, EXAMPLE)
    except Broken as broken:
        return broken.complaint
    named = set(re.findall(r"^\s*#?\s*(?:export\s+)?(\w+)\s*=", text, re.MULTILINE))
    used = {name for document in project.documents for name in _used(document.data)}
    if lacking := sorted(used - named):
        return said("containers_example", "containers_example_seen", lacking=", ".join(lacking))
    return None


def _used(value: Any, key: str = "") -> set[str]:
    """Return the variables in the texts of a document, also those that are passed on by name."""
    if isinstance(value, dict):
        passed = {k for k, v in value.items() if v is None} if key == "environment" else set()
        return passed.union(*(_used(inner, k) for k, inner in value.items()))
    if isinstance(value, list):
        bare = {i for i in value if isinstance(i, str) and re.fullmatch(r"\w+", i)}
        passed = bare if key == "environment" else set()
        return passed.union(*(_used(inner) for inner in value))
    return names(value) if isinstance(value, str) else set()


def non_root(project: Project) -> Complaint | None:
    """The worker does not run as root."""
    user = text_of(project.services["worker"].get("user"))
    user = user or project.instruction("worker", "USER") or ""
    name = expand(user).partition(":")[0].strip("\"' ")
    if name in ("", "root") or (name.isdigit() and int(name) == 0):
        return said("containers_user", "containers_user_seen", seen=user or "-")
    return None


def restarts(project: Project) -> Complaint | None:
    """Each of the four services is started again when it dies."""
    idle = [name for name in SERVICES if not _restarts(project.services[name])]
    if idle:
        return said("containers_restart", "containers_restart_seen", services=", ".join(idle))
    return None


def _restarts(body: dict[str, Any]) -> bool:
    policy = (body.get("deploy") or {}).get("restart_policy")
    # The Compose specification: a policy without a condition means any.
    condition = "no" if policy is None else str(policy.get("condition") or "any")
    return (text_of(body.get("restart")) or condition) not in ("no", "false", "none")


def profile(project: Project) -> Complaint | None:
    """A profile brings a worker and a Flower that use the other broker."""
    brokers = {name: _broker(project, name) for name in project.services}
    usual = brokers.get("worker")
    found: dict[str, set[str]] = {}
    for name, body in project.services.items():
        kind = _kind(project, name)
        other = usual in BROKERS and brokers[name] in BROKERS and brokers[name] != usual
        for one in (body.get("profiles") or []) if kind and other else []:
            found.setdefault(str(one), set()).add(kind)
    if any(kinds == {"worker", "flower"} for kinds in found.values()):
        return None
    shown = "; ".join(f"{one}: {', '.join(sorted(kinds))}" for one, kinds in found.items()) or "-"
    return said("containers_profile", "containers_profile_seen", seen=shown)


def _broker(project: Project, name: str) -> str:
    return host_of(project.environment(name).get("CELERY_BROKER_URL", ""))


def _kind(project: Project, name: str) -> str:
    """Return what of Celery a service runs: "worker", "flower" or "" .

    What nobody says in the files is the image's own command, as in Flower's published image.
    """
    words = " ".join(command(project, name)).split()
    words += [] if words else re.split(r"[/:@]", text_of(project.services[name].get("image")))
    return next((kind for kind in ("worker", "flower") if kind in words), "")
