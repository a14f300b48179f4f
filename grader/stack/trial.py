"""A student's own compose stack, brought up for a moment where a Docker engine answers.

No points hang on it: what comes of it is a remark on the score card. What Compose makes of the file
is started under a name of its own, without its published ports, with passwords drawn for the
occasion, and removed again. A stack that asks for a part of the machine itself is not started.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grader.containers.project import Project
from grader.containers.variables import names
from grader.errors import LabFault
from grader.stack import compose
from grader.words import Text

UP_SECONDS = 600
ASK = ("exec", "-T", "worker", "celery", "-A", "app", "inspect", "ping", "-t", "10")
# What gives a container a part of the machine: it would be no container any more.
DANGEROUS = ("privileged", "cap_add", "devices", "security_opt", "userns_mode", "cgroup_parent")
SHARED = ("network_mode", "pid", "ipc", "uts", "cgroup")

_known: dict[str, Text] = {}
_one_at_a_time = threading.Lock()


def remark(project: Project) -> Text:
    """Return what came of bringing the stack up, or why that was not tried.

    The same files are tried once in a call of the lab, however many brokers it grades on.
    """
    if os.environ.get("LAB_COMPOSE_UP") == "0":
        return Text.of("trial_off")
    if not compose.engine():
        return Text.of("trial_not_run")
    key = _digest(project.root)
    with _one_at_a_time:
        if key not in _known:
            try:
                _known[key] = _try(project)
            except LabFault as fault:
                _known[key] = Text.of("trial_failed", problem=fault.text)
        return _known[key]


def _digest(root: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _try(project: Project) -> Text:
    if reaches := sorted(_files(project)):
        return Text.of("trial_reaches", places=", ".join(reaches))
    name, env = f"lab-trial-{os.getpid()}", {**_own(), **_values(project)}
    file = project.documents[0].path
    place = ("--project-directory", str(project.root), "--project-name", name)
    plan = json.loads(
        compose.docker(
            "compose", *place, "--file", str(file), "config", "--format", "json", env=env
        )
    )
    if reaches := sorted(_reaches(plan, project.root)):
        return Text.of("trial_reaches", places=", ".join(reaches))
    for service in plan["services"].values():
        # Nothing of it is to be seen from outside, and no port of the machine can be taken.
        service.pop("ports", None)
        service.pop("container_name", None)
    for network in filter(None, (plan.get("networks") or {}).values()):
        network["internal"] = True  # a stranger's containers get no way out
    resolved = project.root / f".{name}.json"
    resolved.write_text(json.dumps(plan).replace("$", "$$"), encoding="utf-8")
    whole = ("compose", *place, "--file", str(resolved))
    try:
        up = ("up", "--build", "--detach", "--wait")
        compose.docker(*whole, *up, timeout=UP_SECONDS, env=env)
        answer = compose.docker(*whole, *ASK, env=env)
    finally:
        with contextlib.suppress(LabFault):
            compose.docker(*whole, "down", "--volumes", "--rmi", "local", env=env)
        resolved.unlink()
    return Text.of("trial_up" if "pong" in answer else "trial_silent")


def _own() -> dict[str, str]:
    """Return what the client needs of our environment; the rest is none of the stack's business."""
    kept = ("PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR")
    return {k: v for k, v in os.environ.items() if k in kept or k.startswith("DOCKER_")}


def _files(project: Project) -> Iterator[str]:
    """Yield what Compose would read outside the submission, as `service: path`."""
    for name, body in project.services.items():
        read = [*(body.get("env_file") or []), (body.get("build") or {}).get("context")]
        for path in filter(None, read):
            if not Path(path).resolve().is_relative_to(project.root):
                yield f"{name}: {path}"


def _values(project: Project) -> dict[str, str]:
    """Return a value for every variable: the example's, or a password drawn now."""
    example, found = project.root / ".env.example", dict[str, str]()
    if example.is_file():
        lines = example.read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines if line[:1] != "#")
        found = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    used = {name for document in project.documents for name in _names(document.data)}
    drawn = {name: secrets.token_hex(16) for name in used if not found.get(name)}
    return {**found, **{name: value for name, value in drawn.items() if _secret(name)}}


def _secret(name: str) -> bool:
    return any(word in name.upper() for word in ("PASS", "PW", "SECRET", "TOKEN", "COOKIE"))


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _names(inner)
    elif isinstance(value, str):
        yield from names(value)


def _reaches(plan: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Yield what the stack asks of the machine itself, as `service: key`."""
    for name, body in plan["services"].items():
        yield from (f"{name}: {key}" for key in DANGEROUS if body.get(key))
        yield from (f"{name}: {key}: host" for key in SHARED if body.get(key) == "host")
        for volume in body.get("volumes") or []:
            source = Path(str(volume.get("source") or root))
            if volume.get("type") == "bind" and not source.resolve().is_relative_to(root):
                yield f"{name}: {source}"
        build = body.get("build") or {}
        yield from (
            f"{name}: build.{k}" for k in ("ssh", "entitlements", "privileged") if build.get(k)
        )
        if build.get("network") == "host":
            yield f"{name}: build.network: host"
    yield from (
        f"networks: {n}"
        for n, b in (plan.get("networks") or {}).items()
        if (b or {}).get("external")
    )
    for kind in ("volumes", "secrets", "configs"):
        for name, body in (plan.get(kind) or {}).items():
            file = (body or {}).get("file")
            if (body or {}).get("driver_opts") or (
                file and not Path(file).resolve().is_relative_to(root)
            ):
                yield f"{kind}: {name}"
