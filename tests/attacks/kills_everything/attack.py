"""kill(-1): all processes that the kernel lets it."""

import os
import signal

from attack_kit import ran

if os.readlink("/proc/self/ns/pid") and os.getpid() < 100:  # never outside a namespace
    ran()
    os.kill(-1, signal.SIGKILL)
