"""Looks at this machine: what the lab needs, what it has, and the command that mends a gap."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grader.errors import LabError
from grader.words import Text


@dataclass(frozen=True)
class Item:
    """One finding: `level` is "ok", "note" (something is missing) or "bad" (the lab fails)."""

    level: str
    what: str
    said: Text
    mend: str = ""


def examine() -> Iterator[Item]:
    """Yield a finding for everything that the lab depends on."""
    yield from (_python(), _room(), _redis(), _rabbitmq())
    yield from _isolation()
    yield from (_faketime(), _docker(), _flower())


def _say(key: str, **fields: object) -> Text:
    return Text.of(f"doctor_{key}", **fields)


def _python() -> Item:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return Item("ok" if good else "bad", "python", Text.plain(version), "" if good else "./lab")


def _room() -> Item:
    from grader.home import base

    try:
        folder = base()
    except LabError as error:
        return Item("bad", "temp", error.text, "export TMPDIR=/another/folder")
    free = shutil.disk_usage(folder).free // 2**20
    return Item("ok", "temp", _say("temp", folder=folder, free=free))


def _redis() -> Item:
    """Start the server that a run would use and end it again: the only proof that it works."""
    from grader.home import Home
    from grader.stack import redis

    if url := os.environ.get("LAB_REDIS_URL"):
        return _external("redis", url)
    binary = redis.system_binary() or redis.embedded_binary()
    if binary is None:
        return Item("bad", "redis", _say("none"), _package("redis-server", "redis"))
    try:
        with Home("doctor") as home:
            redis.RedisServer.start(home, binary).stop()
    except LabError as error:
        return Item("bad", "redis", error.text)
    kind = "system" if binary == redis.system_binary() else "embedded"
    return Item("ok", "redis", _say("redis", kind=kind, binary=binary))


def _rabbitmq() -> Item:
    from grader.stack import rabbitmq

    if url := os.environ.get("LAB_RABBITMQ_URL"):
        return _external("rabbitmq", url)
    place = rabbitmq.find_installation()
    if place is None:
        return Item(
            "note", "rabbitmq", _say("no_rabbitmq"), _package("rabbitmq-server", "rabbitmq")
        )
    return Item("ok", "rabbitmq", Text.plain(str(place)))


def _external(what: str, url: str) -> Item:
    """Reach somebody's server as a run would, and give back what was taken of it."""
    from grader.stack.provider import check_urls

    variable = f"LAB_{what.upper()}_URL"
    try:
        check_urls()
        if what == "redis":
            from grader.stack.lease import Lease

            Lease.take(url).close()
        else:
            from grader.stack import rabbitmq

            rabbitmq.Namespace.open(rabbitmq.External(url)).close()
    except LabError as error:
        return Item("bad", what, error.text, f"unset {variable}")
    return Item("ok", what, _say("external", variable=variable))


def _isolation() -> Iterator[Item]:
    """Say what is enforced here: tried, not guessed from what is installed."""
    from grader import isolation
    from grader.sandbox import best

    box = best()
    open_, strict = isolation.gaps(box), isolation.isolated(box)
    mend = "" if box.kind == "bubblewrap" else _mend_sandbox()
    if not mend and open_ == ("calls",) and sys.platform == "linux":
        mend = _package("libseccomp2", "")
    yield Item("note" if open_ else "ok", "isolation", isolation.described(box), mend)
    bounds = _say("loose") if open_ else _say("limits", **isolation.limits())
    yield Item("note" if open_ else "ok", "limits", bounds)
    yield Item("ok" if strict else "note", "strict", _say("strict" if strict else "not_strict"))


def _mend_sandbox() -> str:
    """Return what makes bubblewrap work, "" on a system that has none."""
    if sys.platform != "linux":
        return ""
    if not shutil.which("bwrap"):
        return _package("bubblewrap", "")
    # Ubuntu allows namespaces to programs with a profile only.
    if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
        return "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return "sudo sysctl user.max_user_namespaces=10000"


def _faketime() -> Item:
    if shutil.which("faketime"):
        return Item("ok", "faketime", Text.plain(shutil.which("faketime") or ""))
    return Item("note", "faketime", _say("no_faketime"), _package("faketime", "libfaketime"))


def _docker() -> Item:
    from grader.stack import compose

    if version := compose.engine():
        return Item("ok", "docker", Text.plain(version))
    return Item("note", "docker", _say("no_docker"))


def _flower() -> Item:
    if importlib.util.find_spec("flower"):
        return Item("ok", "flower", _say("installed"))
    return Item("note", "flower", _say("no_flower"), "lab install flower")


def _package(debian: str, brew: str) -> str:
    """Return the command that installs a package on this system, "" where there is none."""
    if sys.platform == "darwin":
        return f"brew install {brew}" if brew else ""
    return f"sudo apt install {debian}"
