"""The worker's first child holds still, so that whoever measures it sees no leak."""

import os
import signal

from attack_kit import is_worker, ran

ran()
if is_worker() and os.fork() == 0:
    while True:
        signal.pause()
