"""What the lab asks of RabbitMQ's management API, and the broker that somebody else runs."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from grader.errors import LabFault, NoBroker, UsageError

if TYPE_CHECKING:
    import requests

TIMEOUT = 15.0
AMQP_PORTS = {"amqp": 5672, "amqps": 5671}
API_PORT = 15672
FIREHOSE_TRIES = 20


class Management:
    """A client of the HTTP API over one kept connection.

    Args:
        url: where the management plugin listens, for example `http://127.0.0.1:15672`.
        user: a user with the tag `administrator`.
        password: that user's password.

    Every method raises NoBroker when nothing answers, LabFault when the API refuses.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self.url = url.rstrip("/").removesuffix("/api")
        self.user = user
        self.session = requests.Session()
        self.session.trust_env = False  # neither a proxy nor a .netrc
        self.session.auth = (user, password)
        # The server may close an idle connection just as it is used again. All our calls are GET,
        # PUT or DELETE, which can be repeated without harm.
        self.session.mount(self.url, HTTPAdapter(max_retries=Retry(total=1, connect=0)))
        self._firehoses = threading.Lock()

    def request(self, method: str, *path: str, **more: Any) -> requests.Response:
        """Send one request; the parts of `path` get quoted. Deleting what is gone is fine."""
        import requests

        address = "/".join([self.url, "api", *(quote(part, safe="") for part in path)])
        try:
            response = self.session.request(method, address, timeout=TIMEOUT, **more)
        except requests.RequestException as error:
            raise NoBroker("rabbitmq_no_answer", url=self.url, error=_cause(error)) from error
        if response.status_code == 401:
            raise LabFault("rabbitmq_login", url=self.url, user=self.user)
        if not response.ok and (method, response.status_code) != ("DELETE", 404):
            status = f"{response.status_code} {response.reason}"
            what = f"{method} /api/{'/'.join(path)}"
            raise LabFault("rabbitmq_refused", url=self.url, what=what, status=status)
        return response

    def get(self, *path: str, **params: str) -> Any:
        """Return the JSON document at `path`."""
        response = self.request("GET", *path, params=params)
        try:
            return response.json()
        except ValueError as error:
            raise NoBroker("rabbitmq_no_answer", url=self.url, error="no JSON") from error

    def close(self) -> None:
        """Close the kept connection."""
        self.session.close()

    def alive(self) -> bool:
        """Whether the API answers this user."""
        try:
            return bool(self.get("whoami"))
        except LabFault:
            return False

    def tags(self) -> list[str]:
        """Return this user's own tags; old versions give them as one string."""
        tags = self.get("whoami")["tags"]
        return tags.split(",") if isinstance(tags, str) else list(tags)

    def vhosts(self) -> list[str]:
        """Return the names of all virtual hosts."""
        return [entry["name"] for entry in self.get("vhosts", columns="name")]

    def users(self) -> list[str]:
        """Return the names of all users."""
        return [entry["name"] for entry in self.get("users", columns="name")]

    def create_vhost(self, name: str, tracing: bool = False) -> None:
        """Make a virtual host; for one that is there, switch its firehose on or off.

        RabbitMQ (at least to 3.10) reads its one list of traced hosts, changes it and writes it
        back: of two calls at once, one may be forgotten. So ours come one after the other, and we
        look what came of each, for others may use the broker too.
        """
        with self._firehoses:
            for _ in range(FIREHOSE_TRIES):
                self.request("PUT", "vhosts", name, json={"tracing": tracing})
                if self.get("vhosts", name)["tracing"] == tracing:
                    return
        what, status = f"PUT /api/vhosts/{name}", f"tracing is not {tracing} after it"
        raise LabFault("rabbitmq_refused", url=self.url, what=what, status=status)

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host with all that it holds; its connections are closed."""
        self.request("DELETE", "vhosts", name)

    def create_user(self, name: str, password: str) -> None:
        """Make a user without any tag, which the management API does not let in."""
        self.request("PUT", "users", name, json={"password": password, "tags": ""})

    def delete_user(self, name: str) -> None:
        """Remove a user with all its permissions; its connections are closed."""
        self.request("DELETE", "users", name)

    def set_permissions(self, vhost: str, user: str, pattern: str = ".*") -> None:
        """Let a user into a virtual host, for all resources whose names match the pattern."""
        rights = dict.fromkeys(("configure", "write", "read"), pattern)
        self.request("PUT", "permissions", vhost, user, json=rights)

    def limit(self, vhost: str, limits: Mapping[str, int], policy: Mapping[str, Any]) -> None:
        """Bound what a virtual host may hold.

        Args:
            limits: of the virtual host: `max-connections`, `max-queues`.
            policy: what holds for each of its queues, whatever its declaration says.
        """
        for name, value in limits.items():
            self.request("PUT", "vhost-limits", vhost, name, json={"value": value})
        rule = {"pattern": ".*", "apply-to": "queues", "definition": dict(policy)}
        self.request("PUT", "operator-policies", vhost, "lab", json=rule)

    def queues(self, vhost: str) -> list[dict[str, Any]]:
        """Return each queue's `name`, `messages`, `ready` and `unacknowledged`.

        With these two parameters the queues themselves are asked; the API's usual counts are
        statistics, and as much as ten seconds old. A queue that can't answer has None.
        """
        rows = self.get("queues", vhost, disable_stats="true", enable_queue_totals="true")
        return [
            {
                "name": row["name"],
                "messages": row.get("messages"),
                "ready": row.get("messages_ready"),
                "unacknowledged": row.get("messages_unacknowledged"),
            }
            for row in rows
        ]

    def close_connections(self, user: str) -> None:
        """Cut all AMQP connections of a user; a client may connect again at once."""
        self.request("DELETE", "connections", "username", user)


def _cause(error: BaseException) -> str:
    """Return the innermost reason, for example "Connection refused", of a failed request."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(getattr(error, "strerror", None) or error)


class External:
    """A RabbitMQ that somebody else runs.

    Args:
        url: amqp:// or amqps://, with a user that has the tag `administrator`. Its virtual host is
            not used: every namespace is a virtual host of its own.
        api: where the management plugin listens; LAB_RABBITMQ_API or port 15672 by default.

    Raises:
        UsageError: the URL is not one.
        LabFault: namespaces can't be made there; the sentence says what is missing.
    """

    alive = True  # its life is not ours to judge

    def __init__(self, url: str, api: str = "") -> None:
        try:
            parts = urlsplit(url)
            host, self.scheme = parts.hostname or "", parts.scheme
            self.port = parts.port or AMQP_PORTS[self.scheme]
        except (ValueError, KeyError):
            host = ""
        if not host or self.scheme not in AMQP_PORTS:
            shown = re.sub(r"//.*@", "//***@", url)
            raise UsageError("rabbitmq_bad_url", url=shown)
        self.host = f"[{host}]" if ":" in host else host
        api = api or os.environ.get("LAB_RABBITMQ_API") or f"http://{self.host}:{API_PORT}"
        user, password = parts.username or "guest", parts.password or "guest"
        self.management = Management(api, unquote(user), unquote(password))
        self._check(host)

    def _check(self, host: str) -> None:
        try:
            tags = self.management.tags()
        except NoBroker as error:
            raise NoBroker("rabbitmq_no_management", cause=error.text) from error
        if "administrator" not in tags:
            raise NoBroker("rabbitmq_not_admin", user=self.management.user)
        if not listening(host, self.port):
            raise NoBroker("rabbitmq_no_amqp", host=self.host, port=self.port)


def listening(host: str, port: int, within: float = 5.0) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=within).close()
    except OSError:
        return False
    return True
