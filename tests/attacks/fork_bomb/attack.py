"""Starts sleeping processes; it stops by itself where nobody stops it."""

import os
import signal

from attack_kit import is_worker, ran, won

MANY = 1000

ran()
if is_worker():
    started = 0
    try:
        while started < MANY:
            if os.fork() == 0:
                signal.pause()
            started += 1
        won(f"{started} processes run")
    except OSError:
        ran(f"refused after {started}")
