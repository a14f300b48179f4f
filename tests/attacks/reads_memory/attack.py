"""Asks the kernel for the grader's memory in two ways."""

import ctypes

from attack_kit import FACTS, grader_in_sight, ran, won

ATTACH, DETACH = 16, 17

ran()
grader = FACTS["grader"]
if grader_in_sight():
    won("the grader's process is in sight")
    try:
        with open(f"/proc/{grader}/mem", "rb") as file:
            won(f"{file.name} is open")
    except OSError:
        pass
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(ATTACH, grader, 0, 0) == 0:
        libc.ptrace(DETACH, grader, 0, 0)
        won("attached to the grader")
