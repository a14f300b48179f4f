"""Asks for what is left where namespaces end: odd sockets, a neighbour's memory, the kernel's own.

A mistaken argument gives EINVAL or EFAULT where a call is let through, so the errno tells.
"""

import ctypes
import errno
import os
import platform
import signal
import socket

from attack_kit import ran, won

REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
NEW_USER, ATTACH = 0x10000000, 16
# Numbers of the calls: bpf, userfaultfd, io_uring_setup, keyctl, perf_event_open, clone3.
NUMBERS = {
    "x86_64": (321, 323, 425, 250, 298, 435),
    "aarch64": (280, 282, 425, 219, 241, 435),
}
# The virtual machine's host, the kernel's ciphers, raw packets, Bluetooth.
FAMILIES = (40, 38, 17, 31)

ran()
libc = ctypes.CDLL(None, use_errno=True)
for family in FAMILIES:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        number = libc.socket(family, kind, 0)
        if number >= 0:
            won(f"a socket of family {family}")
            os.close(number)
# The upper half of the register is not looked at by the kernel.
for number in NUMBERS.get(platform.machine(), ()):
    if libc.syscall(number, *([ctypes.c_long(-1)] * 5)) >= 0 or ctypes.get_errno() not in REFUSED:
        won(f"system call {number} was let through ({os.strerror(ctypes.get_errno())})")
if platform.machine() == "x86_64" and libc.syscall(41, ctypes.c_long(0x100000028), 1, 0) >= 0:
    won("a socket of family 40, by a number that is too long")
child = os.fork()
if child == 0:
    if libc.unshare(NEW_USER) == 0:
        won("a user namespace")
    signal.pause()
for pid in (child, os.getppid(), 1):
    if libc.ptrace(ATTACH, pid, None, None) == 0:
        won(f"process {pid} can be traced")
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
