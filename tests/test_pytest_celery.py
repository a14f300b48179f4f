"""The grader on pytest-celery's containers, where a Docker engine answers.

pytest-celery is slow to load and off by default, so these tests start another pytest that has it.
Only that one collects the class `Containers`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from grader.exercise import ROOT, SOLUTIONS, find
from grader.stack import compose

PLUGINS = ("-p", "pytest_docker_tools.plugin", "-p", "pytest_celery.plugin")
MINUTES = 20  # the first run fetches the images


def pytest_celery(*options: str, minutes: float) -> subprocess.CompletedProcess[str]:
    """Run the class below under a pytest that has the plugin."""
    command = [sys.executable, "-m", "pytest", *PLUGINS, "-o", "python_classes=Containers"]
    return subprocess.run(
        [*command, *options, f"{Path(__file__)}::Containers"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 * minutes,
    )


def test_the_suite_fits_the_plugin():
    """pytest-celery knows every fixture that the suite uses, and runs it once for each broker."""
    run = pytest_celery("--setup-plan", "-q", minutes=2)

    assert run.returncode == 0, run.stdout + run.stderr
    for broker in ("celery_redis_broker", "celery_rabbitmq_broker"):
        assert f"test_the_solution_gets_full_points[{broker}-celery_redis_backend]" in run.stdout
    assert "default_worker_container" not in run.stdout


def test_the_solution_gets_full_points_on_its_containers():
    """On both of pytest-celery's brokers the reference solution of 1_2 gets every point."""
    if not compose.engine():
        pytest.skip("no Docker engine answers, and pytest-celery's brokers are containers")

    run = pytest_celery(minutes=MINUTES)

    assert run.returncode == 0, run.stdout + run.stderr
    assert " 2 passed" in run.stdout


def image(service: str) -> str:
    """Return the image of a service of the lab's compose file; `latest` may be any version."""
    from ruamel.yaml import YAML

    services = YAML(typ="safe").load(compose.FILE.read_text(encoding="utf-8"))["services"]
    return str(services[service]["image"])


def published(*ports: int) -> dict[str, tuple[str, None]]:
    """Return the ports as pytest-celery takes them: any free one, on loopback only."""
    return {f"{port}/tcp": ("127.0.0.1", None) for port in ports}


class Containers:
    """pytest-celery's setup with its brokers and backend, and the grader in the worker's place."""

    @pytest.fixture
    def celery_worker_cluster(self):
        """No worker of pytest-celery's: the submission brings its own."""

    @pytest.fixture
    def default_redis_broker_image(self):
        """Redis as in the lab's compose file."""
        return image("redis")

    @pytest.fixture
    def default_redis_broker_ports(self):
        """Redis on loopback only."""
        return published(6379)

    @pytest.fixture
    def default_redis_backend_image(self):
        """Redis as in the lab's compose file."""
        return image("redis")

    @pytest.fixture
    def default_redis_backend_ports(self):
        """Redis on loopback only."""
        return published(6379)

    @pytest.fixture
    def default_rabbitmq_broker_image(self):
        """RabbitMQ as in the lab's compose file: the grader needs its management plugin."""
        return image("rabbitmq")

    @pytest.fixture
    def default_rabbitmq_broker_ports(self):
        """AMQP and the management API, on loopback only."""
        return published(compose.PORTS["rabbitmq"], compose.API_PORT)

    @pytest.fixture
    def broker(self, celery_setup, monkeypatch) -> str:
        """Point the grader at the containers; return the broker's name."""
        from pytest_celery import RabbitMQTestBroker

        assert celery_setup.ready()
        monkeypatch.setenv("LAB_REDIS_URL", celery_setup.backend.config()["host_url"])
        url = celery_setup.broker.config()["host_url"]
        if not isinstance(celery_setup.broker, RabbitMQTestBroker):
            monkeypatch.setenv("LAB_REDIS_URL", url)
            return "redis"
        host, port = celery_setup.broker.container.get_addr(f"{compose.API_PORT}/tcp")
        monkeypatch.setenv("LAB_RABBITMQ_URL", url)
        monkeypatch.setenv("LAB_RABBITMQ_API", f"http://{host}:{port}")
        return "rabbitmq"

    def test_the_solution_gets_full_points(self, broker):
        """On this broker the reference solution of 1_2 gets every point, bonus included."""
        from grader.grading import Order, grade_all

        (result,) = grade_all(
            [Order(find("1_2"), SOLUTIONS / "1_2")],
            broker=broker,
            stack="external",
            required=(),
            seed=7,
            lang="en",
            tell=lambda line: None,
        )

        assert [f for f in result.findings if f.points < f.max_points] == []
        assert result.brokers == (broker,) and result.score == result.max_score > 0
