"""Writes one endless line to every descriptor of the client process."""

import os

from attack_kit import is_worker, ran

MIB = 1024 * 1024

ran()
if not is_worker():
    for descriptor in range(3, 12):
        try:
            for _ in range(1024):
                os.write(descriptor, b"9" * MIB)
        except OSError:
            pass
