"""labs/docker-compose.yml against its schema and our rules; grader/stack/compose.py.

Where no Docker engine answers, a fake client stands in for it: for reading what Docker prints and
for the sentences only. What needs containers is skipped there and says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from grader.errors import LabError, LabFault, UsageError
from grader.exercise import ROOT
from grader.home import Home
from grader.process import wait_until
from grader.stack import compose
from grader.stack.provider import Stack
from grader.stack.redis import RedisServer, connect, embedded_binary, free_port, system_binary

LABS = ROOT / "labs"
SCHEMA = ROOT / "grader" / "containers" / "compose-spec.json"
PINNED = re.compile(r"^[a-z0-9/.-]+:\d+\.\d+[\w.-]*$")
VARIABLE = re.compile(r"\$\{(\w+)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
REQUIRED = os.environ.get("LAB_REQUIRE_RABBITMQ") == "1"
SECRETS = ("LAB_REDIS_PASSWORD", "LAB_RABBITMQ_PASSWORD")


def load(text: str):
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


@pytest.fixture(scope="module")
def file():
    """The compose file, parsed."""
    return load(compose.FILE.read_text(encoding="utf-8"))


def broken(document) -> list[str]:
    """Return what the published schema finds wrong."""
    from jsonschema import Draft202012Validator

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


# The file


def test_the_file_is_a_compose_file(file):
    """The published schema of the Compose specification accepts the file."""
    assert broken(file) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("ports:", "port:"), ("retries: 5", "retries: [5]"), ("service_healthy", "healthy")],
)
def test_the_schema_finds_mistakes(right, wrong):
    """The schema is the real one: it refuses a misspelt key and values of the wrong kind."""
    text = compose.FILE.read_text(encoding="utf-8")
    assert right in text

    assert broken(load(text.replace(right, wrong)))


def test_ports_are_on_loopback_only(file):
    """Every port is published on 127.0.0.1, and for a server a variable can choose another one."""
    found = [port for service in file["services"].values() for port in service.get("ports", [])]

    wanted = [
        f"127.0.0.1:${{{variable}:-{port}}}:{port}" for port, variable in compose.VARIABLES.items()
    ]
    # The shop's addresses are named in other services' environment: they stay as they are.
    wanted += [f"127.0.0.1:{port}:{port}" for port in range(8001, 8007)]
    assert sorted(found) == sorted(wanted)
    assert not [s for s in file["services"].values() if "network_mode" in s]


def test_every_service_has_a_health_check(file):
    """Each service is looked at from inside, often enough and not for ever."""
    for name, service in file["services"].items():
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL"), name
        assert {"interval", "timeout", "retries", "start_period"} <= set(check), name
    assert file["services"]["flower"]["depends_on"] == {
        broker: {"condition": "service_healthy"} for broker in ("redis", "rabbitmq")
    }


def test_services_start_and_stop_in_good_order(file):
    """Each service has an init, time to stop, and is not started again and again for ever."""
    for name, service in file["services"].items():
        assert service["init"] is True, name
        assert service["restart"].startswith("on-failure:"), name
        assert service["stop_grace_period"].endswith("s"), name


def test_images_are_pinned(file):
    """Every image is named with its major and minor version, the Dockerfile's base too."""
    lines = (LABS / "Dockerfile").read_text(encoding="utf-8").splitlines()
    images = [line.split()[1] for line in lines if line.startswith("FROM ")]
    images += [s["image"] for s in file["services"].values() if "image" in s]

    assert len(images) == 3
    assert not [image for image in images if not PINNED.match(image) or "latest" in image]


def test_the_image_is_safe_and_locked():
    """The image runs as nobody special, without a shell between, from the lock file's hashes."""
    text = (LABS / "Dockerfile").read_text(encoding="utf-8")

    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
    assert json.loads(re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)[1])[0] == "celery"
    assert "--require-hashes" in text and "requirements-flower.lock" in text


def test_no_password_is_in_the_file(file):
    """Both passwords come from outside, none has a default, and no other value looks like one."""
    text = compose.FILE.read_text(encoding="utf-8")
    environment = {k: v for s in file["services"].values() for k, v in s["environment"].items()}

    for variable in SECRETS:
        assert f"${{{variable}:?" in text and f"${{{variable}:-" not in text
    for name, value in environment.items():
        if re.search("PASS|AUTH|SECRET|TOKEN", name):
            assert value.startswith("${LAB_") and ":?" in value, name
        assert not re.search(r"://\w+:(?!\$\{)[^@]*@", value), name


def test_the_example_names_every_variable():
    """`.env.example` has each variable of the file and no other, and no password."""
    written = (LABS / ".env.example").read_text(encoding="utf-8")
    example = dict(re.findall(r"^(\w+)=(.*)$", written, re.MULTILINE))

    assert set(example) == set(VARIABLE.findall(compose.FILE.read_text(encoding="utf-8")))
    assert not [name for name in SECRETS if example[name]]


def test_both_languages_say_the_same():
    """The two documents have the same code blocks and as many headings."""
    english, chinese = (
        (LABS / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
    )

    assert CODE.findall(english) == CODE.findall(chinese) != []
    assert len(re.findall("^#", english, re.M)) == len(re.findall("^#", chinese, re.M))


def test_redis_starts_as_the_file_says(file, tmp_path):
    """Redis's own command and health check, run here: healthy with the password, else not."""
    if not (shutil.which("redis-server") and shutil.which("redis-cli")):
        pytest.skip("redis-server and redis-cli are not installed")
    service, port = file["services"]["redis"], free_port()
    right, wrong = ({**os.environ, "REDISCLI_AUTH": word} for word in ("right", "wrong"))
    command = [word.replace("$$", "$") for word in service["command"]]
    command[-1] = command[-1].replace("redis-server -", f"redis-server - --port {port}")

    def healthy(env) -> bool:
        check = service["healthcheck"]["test"][1].replace("redis-cli", f"redis-cli -p {port}")
        return subprocess.run(["sh", "-c", check], env=env, capture_output=True).returncode == 0

    assert not healthy(right)
    server = subprocess.Popen(
        command, cwd=tmp_path, env=right, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: healthy(right), 20, lambda: AssertionError("never healthy"))
        assert not healthy(wrong)
        assert "right" not in " ".join(psutil.Process(server.pid).cmdline())
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait(20)
    assert not healthy(right)


def has_plugin() -> bool:
    client = shutil.which("docker")
    call = ["docker", "compose", "version"]
    return bool(client) and subprocess.run(call, capture_output=True).returncode == 0


def test_docker_reads_the_file(monkeypatch):
    """`docker compose config` accepts the file with passwords and asks for them without."""
    if not has_plugin():
        pytest.skip("`docker compose config` needs a Docker client with the compose plugin")
    call = ["docker", "compose", "--env-file", os.devnull, "--file", str(compose.FILE)]
    call += ["--profile", "flower", "config"]
    for variable in (*SECRETS, *compose.VARIABLES.values()):
        monkeypatch.delenv(variable, raising=False)

    refused = subprocess.run(call, capture_output=True, text=True)
    monkeypatch.setenv(SECRETS[0], "one")
    monkeypatch.setenv(SECRETS[1], "two")
    done = subprocess.run(call, capture_output=True, text=True)

    assert refused.returncode and SECRETS[0] in refused.stderr
    assert done.returncode == 0, done.stderr
    assert "amqp://lab:two@rabbitmq:5672//" in done.stdout


# With a fake client

FAKE = """\
#!{python}
import json, os, pathlib, subprocess, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
own = {{name: value for name, value in os.environ.items() if name.startswith("LAB_")}}
with open(here / "calls", "a") as file:
    file.write(json.dumps([words, own]) + "\\n")
for wanted, out, err, code in reversed(json.loads((here / "answers").read_text())):
    if set(wanted) <= set(words):
        if out == "hang":
            wait = "import signal; signal.alarm(60); signal.pause()"
            child = subprocess.Popen([sys.executable, "-c", wait])
            (here / "pids").write_text(f"{{os.getpid()}} {{child.pid}}")
            child.wait()
        print(out)
        print(err, file=sys.stderr)
        sys.exit(code)
sys.exit(f"no answer to {{words}}")
"""


class FakeDocker:
    """A program named docker that notes its calls and prints what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._answers = folder, []
        program = folder / "docker"
        program.write_text(FAKE.format(python=sys.executable))
        program.chmod(0o755)
        self.answer("version", "--format", out="27.0.1")
        self.answer("compose", "version", out="v2.29.0")
        self.answer("compose", "ps")
        for words in (["compose", "up"], ["compose", "down"], ["volume", "rm"]):
            self.answer(*words)

    def answer(self, *words: str, out: str = "", err: str = "", code: int = 0) -> None:
        """Answer calls that have all these words; the answer that was given last counts."""
        self._answers.append([words, out, err, code])
        (self.folder / "answers").write_text(json.dumps(self._answers))

    def running(self, *, lines: bool = True, **ports: dict[int, int]) -> None:
        """Have these services run, each with container port -> published port."""
        rows = [
            {
                "ID": f"{service}-id",
                "Service": service,
                "State": "running",
                "Publishers": [
                    {"URL": "127.0.0.1", "TargetPort": inside, "PublishedPort": outside}
                    for inside, outside in {**published, 4369: 0}.items()
                ],
            }
            for service, published in ports.items()
        ]
        many = "\n".join(json.dumps(row) for row in rows)
        self.answer("compose", "ps", out=many if lines else json.dumps(rows))

    def holds(self, service: str, **variables: str) -> None:
        """Give the service's container this environment."""
        env = ["PATH=/bin", *(f"{name}={value}" for name, value in variables.items())]
        self.answer("inspect", f"{service}-id", out=json.dumps(env))

    def calls(self, *words: str) -> list[tuple[list[str], dict[str, str]]]:
        """Return (arguments, LAB_ variables) of the calls that have all these words."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [(said, env) for said, env in map(json.loads, lines) if set(words) <= set(said)]


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A fake client with an engine that answers and nothing up."""
    for variable in [name for name in os.environ if name.startswith("LAB_")]:
        monkeypatch.delenv(variable)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    monkeypatch.setenv("LAB_RABBITMQ_API", "")  # restored after the test, whatever is written
    forget()
    yield FakeDocker(folder)
    forget()


def forget() -> None:
    compose.engine.cache_clear()
    compose._plugin.cache_clear()


def passwords(docker) -> dict[str, str]:
    """Return the passwords that the last `up` was given."""
    _, env = docker.calls("compose", "up")[-1]
    return {name: env[name] for name in SECRETS if name in env}


@pytest.mark.parametrize("lines", [True, False])
def test_services_are_read_from_both_formats(docker, lines):
    """`ps` prints an object a line since compose 2.21 and a list before; both are read."""
    docker.running(redis={6379: 16379}, rabbitmq={5672: 5672}, lines=lines)

    assert compose.running() == ("redis", "rabbitmq")


def test_what_has_ended_does_not_run(docker):
    """A container that is there and has ended is not up."""
    docker.answer("ps", out='{"ID": "x", "Service": "redis", "State": "exited"}')

    assert compose.running() == () and compose.url("redis") is None


def test_nothing_runs_where_docker_says_nonsense(docker):
    """Output that is no JSON, or an error, means that nothing is up."""
    docker.answer("ps", out="<html>")
    assert compose.running() == ()

    docker.answer("ps", err="Error response from daemon: try later", code=1)
    assert compose.running() == ()


def test_the_url_of_redis_has_the_real_port_and_password(docker):
    """Port and password are the container's own, whatever the environment says now."""
    docker.running(redis={6379: 16379})
    docker.holds("redis", REDISCLI_AUTH="a/b c")

    assert compose.url("redis") == "redis://:a%2Fb%20c@127.0.0.1:16379/0"


def test_the_url_of_rabbitmq_comes_with_the_management_api(docker):
    """For RabbitMQ the management API's address is set for this process too."""
    docker.running(rabbitmq={5672: 35672, 15672: 45672})
    docker.holds("rabbitmq", RABBITMQ_DEFAULT_PASS="word")

    assert compose.url("rabbitmq") == "amqp://lab:word@127.0.0.1:35672//"
    assert os.environ["LAB_RABBITMQ_API"] == "http://127.0.0.1:45672"


def test_up_draws_passwords(docker):
    """Each start has new passwords, given by environment, never as an argument."""
    compose.up()
    first = passwords(docker)
    compose.up()
    second = passwords(docker)

    assert set(first) == set(SECRETS) and len({*first.values(), *second.values()}) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", word) for word in first.values())
    for arguments, _ in docker.calls():
        assert not [w for w in (*first.values(), *second.values()) if w in " ".join(arguments)]
    assert docker.calls("volume", "rm", "celery-lab_rabbitmq-data")


def test_up_keeps_the_passwords_of_what_is_there(docker):
    """A container that is there already keeps its password, and its data."""
    docker.running(redis={6379: 6379}, rabbitmq={5672: 5672})
    docker.holds("redis", REDISCLI_AUTH="one")
    docker.holds("rabbitmq", RABBITMQ_DEFAULT_PASS="two")

    compose.up(flower=True)

    assert passwords(docker) == dict(zip(SECRETS, ("one", "two"), strict=True))
    assert not docker.calls("volume")
    arguments, _ = docker.calls("compose", "up")[0]
    assert {"--profile", "flower", "--wait", "--detach"} <= set(arguments)


def test_up_leaves_the_users_choice_alone(docker, tmp_path, monkeypatch):
    """A password in the environment or in labs/.env is not replaced."""
    monkeypatch.setattr(compose, "FILE", tmp_path / "docker-compose.yml")
    (tmp_path / ".env").write_text("# mine\nLAB_REDIS_PASSWORD=one\n")
    monkeypatch.setenv("LAB_RABBITMQ_PASSWORD", "two")

    compose.up()

    assert passwords(docker) == {"LAB_RABBITMQ_PASSWORD": "two"}
    assert not docker.calls("volume")


def test_a_user_who_wrote_nothing_gets_a_password(docker, tmp_path, monkeypatch):
    """`.env.example` as it comes, copied to .env, does not count as a choice."""
    monkeypatch.setattr(compose, "FILE", tmp_path / "docker-compose.yml")
    shutil.copyfile(LABS / ".env.example", tmp_path / ".env")

    compose.up()

    assert set(passwords(docker)) == set(SECRETS)


def test_asking_starts_nothing_unless_told(docker):
    """`url` starts the stack only for a user who asked for compose by name."""
    assert compose.url("redis") is None
    assert not docker.calls("compose", "up")

    assert compose.url("redis", start=True) is None
    assert docker.calls("compose", "up")


def test_down_removes_the_data_too(docker):
    """`down` ends Flower as well and keeps no volume; without a stack it says so."""
    assert compose.down() is False

    docker.running(redis={6379: 6379})
    assert compose.down() is True
    ((arguments, env),) = docker.calls("compose", "down")
    assert {"--profile", "flower", "--volumes"} <= set(arguments)
    assert all(env[name] for name in SECRETS)


# Sentences


def said(call) -> dict[str, str]:
    """Return what a failing call says, in both languages."""
    with pytest.raises(LabError) as caught:
        call()
    return {lang: caught.value.text.render(lang) for lang in ("en", "zh")}


def test_without_a_client_or_an_engine(docker, monkeypatch):
    """Without Docker, or with an engine that does not answer, the user is told so."""
    docker.answer("version", "--format", err="Cannot connect to the Docker daemon", code=1)
    with pytest.raises(UsageError, match="No Docker engine answers"):
        compose.up()
    forget()
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UsageError, match="No Docker engine answers"):
        compose.url("redis", start=True)
    assert (compose.engine(), compose.running(), compose.down()) == ("", (), False)


def test_without_the_plugin(docker):
    """An engine without the compose plugin is no stack, and only who asks for it is told so."""
    docker.answer("compose", err="docker: unknown command: docker compose", code=1)

    assert (compose.running(), compose.down(), compose.url("redis")) == ((), False, None)
    for text in said(compose.up).values():
        assert "docker compose version" in text


@pytest.mark.parametrize(
    "words",
    [
        "driver failed programming external connectivity on endpoint celery-lab-redis-1 (1f): "
        "Bind for 127.0.0.1:{port} failed: port is already allocated",
        "Error starting userland proxy: listen tcp4 127.0.0.1:{port}: bind: address already in use",
        "Ports are not available: exposing port TCP 127.0.0.1:{port} -> 127.0.0.1:0: "
        "listen tcp 127.0.0.1:{port}: bind: address already in use",
        "failed to set up container networking: driver failed programming external connectivity "
        "on endpoint celery-lab-redis-1 (1f): failed to bind host port "
        "127.0.0.1:{port}:172.18.0.2:6379/tcp: address already in use",
    ],
)
def test_a_port_that_is_taken(docker, monkeypatch, words):
    """The sentence names the port and the variable that chooses another, as Docker may say it."""
    monkeypatch.setenv("LAB_RABBITMQ_PORT", "7777")
    for port, variable in ((6379, "LAB_REDIS_PORT"), (7777, "LAB_RABBITMQ_PORT")):
        error = f" Container x  Starting\nError response from daemon: {words.format(port=port)}"
        docker.answer("compose", "up", err=error, code=1)

        for text in said(compose.up).values():
            assert str(port) in text and f"{variable}=" in text


@pytest.mark.parametrize(
    "words",
    [
        "pull access denied for redis, repository does not exist",
        "manifest for redis:7.4-alpine not found: manifest unknown: manifest unknown",
        'Get "https://registry-1.docker.io/v2/": lookup registry-1.docker.io: no such host',
        "toomanyrequests: You have reached your pull rate limit.",
        'failed to resolve reference "docker.io/library/redis:7.4-alpine": i/o timeout',
        "net/http: TLS handshake timeout",
    ],
)
def test_an_image_that_can_not_be_fetched(docker, words):
    """The sentence says which image or why, and what to do without."""
    docker.answer(
        "compose", "up", err=f" redis Pulling\nError response from daemon: {words}", code=1
    )

    for text in said(compose.up).values():
        assert words in text and "--stack compose" in text and "Pulling" not in text


def test_any_other_failure_has_dockers_last_words(docker):
    """What nobody foresaw is told with the call and what Docker said."""
    docker.answer("compose", "up", err="container celery-lab-redis-1 is unhealthy", code=1)

    for text in said(compose.up).values():
        assert "docker compose up --detach --wait" in text and "is unhealthy" in text


def test_a_client_that_hangs_is_ended(docker):
    """After the time is over the client and its own child are gone, and the sentence says so."""
    docker.answer("compose", "up", out="hang")
    began = time.monotonic()

    with pytest.raises(LabFault, match="`docker compose up` did not finish within 2 s"):
        compose.docker("compose", "up", timeout=2)

    assert time.monotonic() - began < 40, "it waited until the child had ended by itself"
    for pid in (docker.folder / "pids").read_text().split():
        wait_until(lambda pid=pid: gone(int(pid)), 10, lambda: AssertionError("still there"))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# The provider, with real servers behind a fake client


def test_a_run_takes_its_namespace_from_the_stack(docker):
    """`--stack compose` leases a database of the Redis whose port and password Docker names."""
    binary = embedded_binary() or system_binary()
    with Home("test") as home:
        server = RedisServer.start(home, binary)
        word = server.url.split("@")[0].rpartition(":")[2]
        docker.running(redis={6379: server.port})
        docker.holds("redis", REDISCLI_AUTH=word)

        with Stack(home, "compose") as stack:
            space = stack.open("redis")
            connect(space.student_broker).set("key", "value")
            space.close()

        with connect(server.url) as client:
            assert client.info("keyspace") == {}
        server.stop()


def test_a_run_takes_its_virtual_host_from_the_stack(docker):
    """`--stack compose` makes virtual hosts on the RabbitMQ that Docker names, by its API."""
    from grader.stack.rabbitmq import Node, find_installation

    place = find_installation()
    if place is None:
        stop = pytest.fail if REQUIRED else pytest.skip
        stop("no RabbitMQ on this machine: `sudo apt install rabbitmq-server`")
    with Home("test") as home:
        node = Node.start(home, place)
        server = RedisServer.start(home, embedded_binary() or system_binary())
        try:
            admin = {"password": "word", "tags": "administrator"}
            node.management.request("PUT", "users", "lab", json=admin)
            api = int(node.management.url.rpartition(":")[2])
            docker.running(redis={6379: server.port}, rabbitmq={5672: node.port, 15672: api})
            docker.holds("redis", REDISCLI_AUTH=server.url.split("@")[0].rpartition(":")[2])
            docker.holds("rabbitmq", RABBITMQ_DEFAULT_PASS="word")

            with Stack(home, "compose") as stack:
                space = stack.open("rabbitmq")
                inside = node.management.vhosts()
                space.close()

            assert len(inside) == 2 and node.management.vhosts() == ["/"]
        finally:
            server.stop()
            node.stop()


# With an engine


@pytest.fixture
def engine(monkeypatch):
    """A Docker engine, and names and ports of our own on it."""
    if not compose.engine() or not compose._plugin():
        pytest.skip("no Docker engine with the compose plugin answers on this machine")
    for variable in (*SECRETS, "LAB_FLOWER_BROKER_URL"):
        monkeypatch.delenv(variable, raising=False)
    for variable in compose.VARIABLES.values():
        monkeypatch.setenv(variable, str(free_port()))
    name = f"celery-lab-test-{os.getpid()}"
    monkeypatch.setattr(compose, "PROJECT", name)
    monkeypatch.setattr(compose, "PLACE", ("--project-name", name, "--file", str(compose.FILE)))
    monkeypatch.setenv("LAB_RABBITMQ_API", "")
    yield name
    compose.down()


def test_the_stack_lives(engine):
    """The whole stack comes up healthy, serves namespaces on both brokers, and goes for good."""
    import requests

    compose.up(flower=True)
    urls = {service: compose.url(service) for service in compose.PORTS}
    compose.up(flower=True)

    assert {service: compose.url(service) for service in compose.PORTS} == urls
    assert requests.get(f"{urls['flower']}/healthcheck", timeout=10).ok
    with Home("test") as home, Stack(home, "compose") as stack:
        for broker in ("redis", "rabbitmq"):
            stack.open(broker).close()
    assert compose.down() and compose.running() == ()
    volumes = ["docker", "volume", "ls", "--quiet", "--filter", f"name={engine}_"]
    assert subprocess.run(volumes, capture_output=True, text=True).stdout == ""
