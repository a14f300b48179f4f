"""Shows the client process a good face."""

import os
import signal

from attack_kit import is_worker, ran

ran()
if is_worker():
    os.kill(os.getpid(), signal.SIGKILL)
