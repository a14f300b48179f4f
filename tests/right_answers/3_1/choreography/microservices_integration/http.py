"""One request of one service, by http.client."""

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from celery.utils.log import get_task_logger

from .config import TIMEOUT, URLS

log = get_task_logger(__name__)


@dataclass
class ServiceResponse:
    service: str
    success: bool
    data: Any = None
    error: str | None = None
    response_time: float = 0.0
    code: int = 0
    extra: dict = field(default_factory=dict)

    @property
    def final(self):
        """An answer that another attempt would not change."""
        return self.success or (400 <= self.code < 500 and self.code not in (408, 429))


class ServiceCommunicator:
    @staticmethod
    def call_service(
        service, endpoint, data=None, method="POST", idempotency_key="", correlation=""
    ):
        began = time.monotonic()
        res = ServiceResponse(service, False)
        try:
            ServiceCommunicator._fill(
                res, service, endpoint, data, method, idempotency_key, correlation
            )
        except Exception as exc:
            res.error = f"{type(exc).__name__}: {exc}"
        res.response_time = time.monotonic() - began
        log.info("%s %s %s -> %s %s", correlation, service, endpoint, res.code, res.error or "ok")
        return res

    @staticmethod
    def _fill(res, service, endpoint, data, method, key, correlation):
        if service not in URLS:
            res.error, res.code = f"unknown service {service}", 400
            return
        url = urlsplit(URLS[service])
        conn = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=TIMEOUT)
        head = {"Accept": "application/json"}
        if key:
            head["Idempotency-Key"] = key
        if correlation:
            head["X-Correlation-ID"] = correlation
        body = None
        if data is not None:
            body = json.dumps(data).encode()
            head["Content-Type"] = "application/json"
        try:
            conn.request(method, url.path.rstrip("/") + "/" + endpoint.lstrip("/"), body, head)
            answer = conn.getresponse()
            raw = answer.read()
        finally:
            conn.close()
        res.code = answer.status
        try:
            res.data = json.loads(raw)
        except ValueError:
            res.data = None
        if 200 <= res.code < 300 and isinstance(res.data, dict):
            res.success = True
        elif 200 <= res.code < 300:
            res.error = "the answer is no JSON object"
        elif isinstance(res.data, dict) and res.data.get("error"):
            res.error = f"{res.data['error']}: {res.data.get('message', '')}"
        else:
            res.error = f"HTTP {res.code}"
