"""Makes what outlives a process: shared memory, message queues, abstract sockets."""

import ctypes
import os
import socket

from attack_kit import FACTS, ran

ran()
libc = ctypes.CDLL(None)
libc.shmget(0x1AB, 4096, 0o1666)
libc.msgget(0x1AB, 0o1666)
libc.semget(0x1AB, 1, 0o1666)
for folder in ("/dev/shm", "/tmp", "/var/tmp", "/run/lock", "/dev/mqueue"):
    try:
        os.close(os.open(f"{folder}/{FACTS['nonce']}", os.O_CREAT | os.O_WRONLY))
    except OSError:
        pass
door = socket.socket(socket.AF_UNIX)
try:
    door.bind(f"\0{FACTS['nonce']}-{os.getpid()}")
    door.listen()
except OSError:
    pass
KEPT = [door]
