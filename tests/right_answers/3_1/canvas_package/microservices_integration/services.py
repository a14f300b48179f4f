"""HTTP by the standard library alone."""

from __future__ import annotations

import http.client
import json
import os
import time
from urllib.parse import urlsplit

from .data import ServiceResponse


class ServiceCommunicator:
    @classmethod
    def call_service(cls, service, endpoint, data=None, method="POST", key=None):
        start = time.monotonic()
        status, body, error = 0, None, None
        try:
            address = urlsplit(os.environ[f"{service.upper()}_URL"])
            link = http.client.HTTPConnection(
                address.hostname, address.port, timeout=float(os.getenv("SERVICE_TIMEOUT", "5"))
            )
            try:
                headers = {"Content-Type": "application/json"}
                if key:
                    headers["Idempotency-Key"] = key
                path = endpoint if endpoint.startswith("/") else f"/{endpoint}"
                link.request(method, path, json.dumps(data or {}), headers)
                answer = link.getresponse()
                status, body = answer.status, json.loads(answer.read())
            finally:
                link.close()
        except KeyError:
            return ServiceResponse(False, None, f"no service {service}", 0.0)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            error = f"{type(problem).__name__} {problem}"
        if error is None and 200 <= status < 300:
            return ServiceResponse(True, body, None, time.monotonic() - start)
        refused = 400 <= status < 500 and status not in (408, 429)
        words = body["error"] + ": " + body["message"] if isinstance(body, dict) else error
        return ServiceResponse(False, body, words, time.monotonic() - start, not refused)
