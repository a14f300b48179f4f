"""A process beside the worker locks each new database before the grader can."""

import fcntl
import os
import time

from attack_kit import is_worker, ran

RESERVED = 0x40000001  # SQLite's byte for who is about to write


def lock():
    ran("beside")
    path, last = os.environ["LAB_OPS_DB"], 0
    while True:
        try:
            number = os.open(path, os.O_RDWR)
            if os.fstat(number).st_ino == last:
                os.close(number)
                continue
            last = os.fstat(number).st_ino
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, RESERVED)
            if os.pread(number, 1 << 20, 0).count(b"2020-01-01T00:00:00Z") >= 5:
                time.sleep(10**6)
            os.close(number)
        except OSError:
            time.sleep(0.001)


ran()
if is_worker() and os.fork() == 0:
    lock()
