"""Knocks at a door of this machine, at a name server, and asks for a name."""

import socket

from attack_kit import FACTS, ran, tried, won

ran()
host, port = FACTS["bell"]
for place in ((host, port), ("1.1.1.1", 53), ("8.8.8.8", 443), ("169.254.169.254", 80)):
    try:
        with socket.create_connection(place, 2) as link:
            link.sendall(b"here I am")
            won(f"connected to {place}")
    except OSError:
        pass
with socket.socket(type=socket.SOCK_DGRAM) as link:
    tried(link.sendto, b"here I am", (host, port))
with socket.socket(socket.AF_UNIX) as link:
    tried(link.connect, "/run/dbus/system_bus_socket")
