"""What the lab asks of RabbitMQ's management API, and the broker that somebody else runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

from grader.errors import LabFault, NoBroker

if TYPE_CHECKING:
    import requests

TIMEOUT = 15.0
AMQP_PORTS = {"amqp": 5672, "amqps": 5671}


class Broker(Protocol):
    """What a namespace needs: where the broker listens, and a way to manage it."""

    @property
    def scheme(self) -> str:
        """`amqp` or `amqps`."""

    @property
    def host(self) -> str:
        """Its name or address as it stands in a URL."""

    @property
    def port(self) -> int:
        """Its AMQP port."""

    @property
    def management(self) -> Management:
        """Its HTTP API."""


class Management:
    """A client of the HTTP API over one kept connection; every call may safely be repeated.

    Args:
        url: where the management plugin listens, for example `http://127.0.0.1:15672`.
        user: a user with the tag `administrator`.
        password: that user's password.

    All methods raise NoBroker when nothing answers and LabFault when the API refuses.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self.url = url.rstrip("/")
        self.user = user
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = (user, password)
        # The server may close an idle connection just when it is used again. PUT, GET and DELETE
        # of this API can be repeated without harm.
        again = Retry(total=1, redirect=0, backoff_factor=0)
        self.session.mount(self.url, HTTPAdapter(max_retries=again))

    def request(self, method: str, *path: str, **more: Any) -> requests.Response:
        """Send one request; the parts of `path` are quoted. A DELETE of what is gone is fine."""
        import requests

        address = "/".join([self.url, "api", *(quote(part, safe="") for part in path)])
        try:
            response = self.session.request(method, address, timeout=TIMEOUT, **more)
        except requests.RequestException as error:
            raise NoBroker("rabbitmq_no_answer", url=self.url, error=error) from error
        if not response.ok and (method, response.status_code) != ("DELETE", 404):
            status = f"{response.status_code} {response.reason}"
            raise LabFault("rabbitmq_refused", what=f"{method} /{'/'.join(path)}", status=status)
        return response

    def close(self) -> None:
        """Close the kept connection."""
        self.session.close()

    def alive(self) -> bool:
        """Whether the API answers this user."""
        try:
            return bool(self.request("GET", "whoami").json()["name"])
        except (LabFault, ValueError, KeyError, TypeError):
            return False

    def vhosts(self) -> list[str]:
        """Return the names of all virtual hosts."""
        return self._names("vhosts")

    def users(self) -> list[str]:
        """Return the names of all users."""
        return self._names("users")

    def _names(self, kind: str) -> list[str]:
        answer = self.request("GET", kind, params={"columns": "name"})
        return [entry["name"] for entry in answer.json()]

    def create_vhost(self, name: str, tracing: bool = False) -> None:
        """Make a virtual host, or set the firehose of one that is there on or off."""
        self.request("PUT", "vhosts", name, json={"tracing": tracing})

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host with all it holds; its connections are closed."""
        self.request("DELETE", "vhosts", name)

    def create_user(self, name: str, password: str) -> None:
        """Make a user without any tag, so without access to the management API."""
        self.request("PUT", "users", name, json={"password": password, "tags": ""})

    def delete_user(self, name: str) -> None:
        """Remove a user with all its permissions."""
        self.request("DELETE", "users", name)

    def set_permissions(
        self, vhost: str, user: str, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Let a user into a virtual host; the three patterns are matched against names there."""
        rights = {"configure": configure, "write": write, "read": read}
        self.request("PUT", "permissions", vhost, user, json=rights)

    def queues(self, vhost: str) -> list[dict[str, Any]]:
        """Return each queue's `name`, `messages`, `ready` and `unacknowledged`.

        The queues themselves are asked: without these two parameters the counts come from
        statistics that are up to ten seconds old. A count is None while a queue can't answer.
        """
        fresh = {"disable_stats": "true", "enable_queue_totals": "true"}
        return [
            {
                "name": queue["name"],
                "messages": queue.get("messages"),
                "ready": queue.get("messages_ready"),
                "unacknowledged": queue.get("messages_unacknowledged"),
            }
            for queue in self.request("GET", "queues", vhost, params=fresh).json()
        ]

    def close_connections(self, user: str) -> None:
        """Cut all AMQP connections of a user; clients see CONNECTION_FORCED and may come back."""
        self.request("DELETE", "connections", "username", user)


class External:
    """A RabbitMQ that somebody else runs, named by a URL; the URL's virtual host is not used."""

    def __init__(self, url: str, api: str | None = None) -> None:
        parts = _parse(url)
        self.scheme = parts.scheme
        self.host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
        self.port = parts.port or AMQP_PORTS[parts.scheme]
        self.management = Management(
            api or f"http://{self.host}:15672",
            unquote(parts.username or "guest"),
            unquote(parts.password or "guest"),
        )

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> External | None:
        """Return the broker named by LAB_RABBITMQ_URL and LAB_RABBITMQ_API, checked; else None."""
        if not (url := env.get("LAB_RABBITMQ_URL")):
            return None
        broker = cls(url, env.get("LAB_RABBITMQ_API") or None)
        broker.check()
        return broker

    def check(self) -> None:
        """Raise NoBroker, saying what is missing, unless namespaces can be made here."""
        with _naming_the_plugin(self.management.url):
            answer = self.management.request("GET", "whoami").json()
        tags = answer["tags"]
        if "administrator" not in (tags if isinstance(tags, list) else tags.split(",")):
            raise NoBroker("rabbitmq_not_admin", user=self.management.user)
        if not listening(self.host.strip("[]"), self.port, within=5):
            raise NoBroker("rabbitmq_no_amqp", host=self.host, port=self.port)
