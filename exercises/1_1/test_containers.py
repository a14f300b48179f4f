"""The checks of exercise 1_1 that read docker-compose.yml and Dockerfile.

They are judged by what they mean: after anchors, `extends`, `include` and defaults of variables.
"""

from __future__ import annotations

from grader.check import check, hint
from grader.containers import challenges, passwords, rules
from grader.containers.complaint import Broken
from grader.containers.project import load
from grader.expect import fact
from grader.stack import trial


def project(desk):
    """Return the submission's compose project, or the complaint that says why there is none."""

    def read():
        try:
            return load(desk.folder)
        except Broken as broken:
            return broken.complaint

    return desk.once("project", read)


def says_nothing(complaint):
    """Whether a rule has no complaint; the card gets its words where it has one."""
    return complaint is None or fact(False, complaint.wanted, complaint.seen)


def obeys(desk, rule):
    """Assert that the project obeys a rule."""
    try:
        complaint = rule(project(desk))
    except Broken as broken:  # a Dockerfile that the rule needs is not there
        complaint = broken.complaint
    assert says_nothing(complaint), hint(complaint.hint)


@check(live=False)
def test_compose_file(desk):
    """docker-compose.yml is valid and has the services redis, rabbitmq, worker and flower."""
    found = project(desk)
    complaint = rules.services(found) if hasattr(found, "services") else found
    assert says_nothing(complaint), hint(complaint.hint)
    desk.once("trial", lambda: desk.remarks.append(trial.remark(found)))


@check(live=False, after=test_compose_file)
def test_loopback(desk):
    """The ports 6379, 5672, 15672 and 5555 are published, on loopback only."""
    obeys(desk, rules.loopback)


@check(live=False, after=test_compose_file)
def test_health(desk):
    """redis and rabbitmq have a health check that can fail."""
    obeys(desk, rules.health)


@check(live=False, after=test_compose_file)
def test_waits(desk):
    """worker and flower wait until redis and rabbitmq are healthy."""
    obeys(desk, rules.waits)


@check(live=False, after=test_compose_file)
def test_urls(desk):
    """worker and flower get the URLs of broker and result backend by environment."""
    obeys(desk, rules.urls)


@check(live=False, after=test_compose_file)
def test_passwords(desk):
    """No password stands in the compose file or the Dockerfile."""
    obeys(desk, passwords.in_files)


@check(live=False, after=test_compose_file)
def test_images(desk):
    """Every image is pinned at least to a major version, in FROM too."""
    obeys(desk, rules.pinned)


@check(live=False, after=test_compose_file)
def test_no_shell(desk):
    """The worker's command runs without a shell between."""
    obeys(desk, rules.no_shell)


@check(live=False, after=test_compose_file)
def test_grace(desk):
    """The worker has at least 60 s to stop."""
    obeys(desk, rules.grace)


@check(live=False, after=test_compose_file)
def test_init(desk):
    """The worker's container has an init."""
    obeys(desk, rules.init)


@check(live=False, after=test_compose_file)
def test_worker_health(desk):
    """Challenge: the worker's health check asks this very worker."""
    obeys(desk, challenges.worker_health)


@check(live=False, after=test_compose_file)
def test_env_example(desk):
    """Challenge: .env.example names every variable that the compose file uses."""
    obeys(desk, challenges.env_example)


@check(live=False, after=test_compose_file)
def test_user(desk):
    """Challenge: the worker does not run as root."""
    obeys(desk, challenges.non_root)


@check(live=False, after=test_compose_file)
def test_restart(desk):
    """Challenge: each of the four services has a restart policy."""
    obeys(desk, challenges.restarts)


@check(live=False, after=test_compose_file)
def test_profile(desk):
    """Challenge: a profile starts worker and flower with the other broker."""
    obeys(desk, challenges.profile)
