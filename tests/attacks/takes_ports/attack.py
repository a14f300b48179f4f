"""Binds all the ports that it can get."""

import socket

from attack_kit import is_worker, ran

KEPT = []

ran()
if not is_worker():
    for port in (*range(20000, 20200), *range(32768, 61000, 61)):
        door = socket.socket()
        try:
            door.bind(("127.0.0.1", port))
            door.listen(1)
            KEPT.append(door)
        except OSError:
            door.close()
        if len(KEPT) > 700:
            break
