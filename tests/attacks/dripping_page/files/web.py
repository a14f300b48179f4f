"""Sends one byte of a header each second, so that no read ever waits too long."""

import socket
import sys
import threading

from attack_kit import ran

HEAD = b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 60_000

door = socket.socket()
door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
door.bind(("127.0.0.1", int(sys.argv[-1])))
door.listen()
ran("as a page")
while True:
    link, _ = door.accept()
    for byte in HEAD:
        try:
            link.sendall(bytes([byte]))
        except OSError:
            break
        threading.Event().wait(1)
