"""The core rules for a student's compose file; each sentence says why the rule is there.

A rule takes a project and returns a complaint, or None. Files are judged by what they mean after
anchors, `extends`, `include` and the defaults of variables, never by comparing text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from grader.containers.command import command, folders, init_of, no_program, shell_between
from grader.containers.complaint import Complaint, said
from grader.containers.health import test_of
from grader.containers.project import Project, text_of
from grader.containers.variables import UNKNOWN, expand
from grader.words import Text

SERVICES = ("redis", "rabbitmq", "worker", "flower")
BROKERS = ("redis", "rabbitmq")
PORTS = {"redis": (6379,), "rabbitmq": (5672, 15672), "flower": (5555,)}
URLS = {"worker": ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"), "flower": ("CELERY_BROKER_URL",)}
# URLs of these that name no host mean localhost.
SCHEMES = ("redis", "rediss", "amqp", "amqps", "pyamqp")
GRACE_SECONDS = 60
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
TAG = re.compile(r"v?\d+([.\-_+].*)?")


def services(project: Project) -> Complaint | None:
    """The four services are there, each with an image or a build."""
    missing = [name for name in SERVICES if name not in project.services]
    if missing:
        return said(
            "containers_services",
            "containers_services_seen",
            "services",
            missing=", ".join(missing),
        )
    bare = [n for n in SERVICES if not {"image", "build"} & set(project.services[n])]
    if bare:
        return said("containers_image", "containers_image_seen", "services", bare=", ".join(bare))
    return None


def loopback(project: Project) -> Complaint | None:
    """Each published port is on loopback only, and the four well-known ones are published."""
    ports = [(name, entry) for name in project.services for entry in published(project, name)]
    hosts = [n for n, body in project.services.items() if body.get("network_mode") == "host"]
    open_ones = [f"{name}: {shown}" for name, (_, ip, shown) in ports if not on_loopback(ip)]
    open_ones += [f"{name}: network_mode: host" for name in hosts]
    if open_ones:
        places = "; ".join(open_ones)
        return said("containers_loopback", "containers_loopback_seen", places=places)
    lacking = [
        f"{name}: {port}"
        for name, wanted in PORTS.items()
        for port in wanted
        if not any(service == name and port in numbers for service, (numbers, _, _) in ports)
    ]
    if lacking:
        places = "; ".join(lacking)
        return said(
            "containers_published", "containers_published_seen", "unpublished", places=places
        )
    return None


def published(project: Project, name: str) -> Iterator[tuple[set[int], str, str]]:
    """Yield (the container's TCP ports, address of the host, as written) for each entry."""
    for entry in project.services[name].get("ports") or []:
        if isinstance(entry, dict):
            target, protocol = text_of(entry.get("target")), text_of(entry.get("protocol"))
            ip = text_of(entry.get("host_ip"))
            shown = ", ".join(f"{key}: {value}" for key, value in entry.items())
        else:
            shown = str(entry)
            ip, target, protocol = _short(text_of(entry))
        tcp = protocol.lower() in ("", "tcp")
        yield set(_numbers(target) if tcp else ()), ip, shown


def _short(text: str) -> tuple[str, str, str]:
    """Return (address, target, protocol) of `[[IP:]HOST:]CONTAINER[/PROTOCOL]`."""
    text, _, protocol = text.partition("/")
    left, _, target = text.rpartition(":")
    ip = left[1:].partition("]")[0] if left.startswith("[") else left.rpartition(":")[0]
    return ip, target, protocol


def _numbers(side: str) -> Iterable[int]:
    """Return the ports of `5672` or of a range `5672-5675`."""
    first, _, last = side.partition("-")
    if not first.isascii() or not first.isdigit() or not (last or "0").isdigit():
        return ()
    return range(int(first), min(int(last or first), 65535) + 1)


def on_loopback(ip: str) -> bool:
    """Whether an address is the machine's own; none at all means every interface."""
    try:
        return ipaddress.ip_address(ip.strip("[]")).is_loopback
    except ValueError:
        return False


def health(project: Project) -> Complaint | None:
    """Redis and RabbitMQ each have a health check that could fail."""
    for name in BROKERS:
        test = test_of(project.services[name].get("healthcheck"))
        if test.problem:
            problem = Text.of(f"containers_health_{test.problem}", test=test.shown)
            fields = {"service": name, "problem": problem}
            return said("containers_health", "containers_health_seen", test.problem, **fields)
    return None


def waits(project: Project) -> Complaint | None:
    """Worker and flower start only when both brokers are healthy."""
    for name in ("worker", "flower"):
        lacking = [b for b in BROKERS if b not in waits_for(project, name)]
        if lacking:
            needs = project.services[name].get("depends_on") or {}
            seen = {n: str((how or {}).get("condition", "-")) for n, how in needs.items()}
            started = any(seen.get(broker) == "service_started" for broker in lacking)
            fields = {"service": name, "lacking": ", ".join(lacking), "seen": seen or "-"}
            hint = "started" if started else "default"
            return said("containers_waits", "containers_waits_seen", hint, **fields)
    return None


def waits_for(project: Project, name: str, below: tuple[str, ...] = ()) -> set[str]:
    """Return the services that are healthy before this one starts, by whatever way."""
    found: set[str] = set()
    for other, how in (project.services.get(name, {}).get("depends_on") or {}).items():
        if other in below:
            continue
        if expand(str((how or {}).get("condition", ""))) == "service_healthy":
            found.add(other)
        found |= waits_for(project, other, (*below, name))
    return found


def urls(project: Project) -> Complaint | None:
    """The worker gets both URLs by environment, Flower the broker's, and none leads to itself."""
    for name, variables in URLS.items():
        given = project.environment(name)
        lacking = [variable for variable in variables if not given.get(variable)]
        if lacking:
            fields = {"service": name, "lacking": ", ".join(lacking)}
            return said("containers_urls", "containers_urls_seen", **fields)
        mode = str(project.services[name].get("network_mode"))
        shared = mode.startswith(("host", "service:", "container:"))
        for variable in variables:
            host = itself(given[variable])
            if host and not shared:
                fields = {"service": name, "variable": variable, "host": host}
                return said("containers_hosts", "containers_hosts_seen", "localhost", **fields)
    return None


def itself(url: str) -> str:
    """Return the host that a URL names where it is the very container, else ""."""
    scheme, host = url.partition("://")[0], host_of(url)
    place = url.partition("://")[2].rpartition("@")[2].partition("/")[0]
    if not host and scheme in SCHEMES and UNKNOWN not in place:
        return "localhost"  # so kombu reads it
    try:
        address = ipaddress.ip_address(host)
        return host if address.is_loopback or address.is_unspecified else ""
    except ValueError:
        return host if host == "localhost" else ""


def host_of(url: str) -> str:
    """Return the host that a URL names, "" where the file does not say it."""
    try:
        host = urlsplit(url.replace(UNKNOWN, "x")).hostname or ""
    except ValueError:
        return ""
    return "" if UNKNOWN in url.rpartition("@")[2].partition("/")[0] else host


def pinned(project: Project) -> Complaint | None:
    """Every image that comes from elsewhere names at least its major version."""
    loose = [
        f"{place}: {shown_image(image)}" for place, image in images(project) if not is_pinned(image)
    ]
    if loose:
        places = "; ".join(dict.fromkeys(loose))
        latest = any(re.search(r":latest$", place) for place in loose)
        hint = "latest" if latest else "default"
        return said("containers_pinned", "containers_pinned_seen", hint, places=places)
    return None


def images(project: Project) -> Iterator[tuple[str, str]]:
    """Yield (where it stands, image); what a service builds itself is named, not fetched."""
    for name, body in project.services.items():
        if "image" in body and not project.build(name):
            yield name, expand(str(body["image"]))
    for name, file in project.built():
        given = (project.services[name].get("build") or {}).get("args") or {}
        for image in file.images({key: text_of(value) for key, value in given.items()}):
            yield "Dockerfile", image


def is_pinned(image: str) -> bool:
    """Whether an image's tag begins with a version, or a digest fixes it."""
    if re.search(r"@sha256:[0-9a-f]{64}$", image):
        return True
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return bool(colon) and bool(TAG.fullmatch(tag.partition("@")[0]))


def shown_image(image: str) -> str:
    """Return an image's name with a question mark for what only the environment knows."""
    return image.replace(UNKNOWN, "?") or "?"


def no_shell(project: Project) -> Complaint | None:
    """The worker's own process gets Docker's SIGTERM, no shell in its place."""
    words = command(project, "worker")
    if not words:
        return said("containers_command", "containers_command_seen", "no_command")
    if no_program(words):
        seen = " ".join(words).replace(UNKNOWN, "?")
        return said("containers_shell", "containers_exec_seen", "no_program", seen=seen)
    if shell := shell_between(words, folders(project, "worker")):
        return said("containers_shell", "containers_shell_seen", shell=shell.replace(UNKNOWN, "?"))
    return None


def grace(project: Project) -> Complaint | None:
    """The worker has at least a minute to finish what it runs."""
    written = project.services["worker"].get("stop_grace_period")
    given = seconds(text_of(written))
    if given is None or given < GRACE_SECONDS:
        shown = "-" if written is None else str(written)
        return said("containers_grace", "containers_grace_seen", wanted=GRACE_SECONDS, seen=shown)
    return None


def seconds(text: str) -> float | None:
    """Return a Compose duration (`1m30s`) in seconds, None where it is none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)", text)
    if not parts or "".join(n + unit for n, unit in parts) != text.strip():
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def init(project: Project) -> Complaint | None:
    """Something in the worker's container collects dead processes and passes signals on."""
    if truth(project.services["worker"].get("init")) or init_of(command(project, "worker")):
        return None
    return said("containers_init", "containers_init_seen")


def truth(value: Any) -> bool:
    """Whether Compose takes a value for true."""
    return text_of(value).lower() in ("true", "yes", "y", "on", "1")
