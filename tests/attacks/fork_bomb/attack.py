"""Starts sleeping processes; it stops by itself where nobody stops it."""

import os
import signal

from attack_kit import is_worker, ran, won

MANY = 1000

ran()
if is_worker():
    started = 0
    try:
        for started in range(MANY):
            if os.fork() == 0:
                signal.pause()
    except OSError:
        ran(f"refused after {started}")
    else:
        won(f"{MANY} processes run")
