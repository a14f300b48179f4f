"""Whoever it can reach is told to stop or to die."""

import os
import signal

from attack_kit import grader_in_sight, ran, won

ran()
if grader_in_sight():
    won("the grader can be signalled")
for number in (signal.SIGSTOP, signal.SIGKILL):
    for pid in (os.getppid(), 1, os.getsid(0)):
        if pid != os.getpid():
            try:
                os.kill(pid, number)
            except OSError:
                pass
os.killpg(0, signal.SIGKILL)
