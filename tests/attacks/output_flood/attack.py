"""Prints more than anybody can keep."""

import os

from attack_kit import is_worker, ran

MIB = 1024 * 1024

ran()
if is_worker():
    for _ in range(1024):
        os.write(1, b"x" * MIB)
