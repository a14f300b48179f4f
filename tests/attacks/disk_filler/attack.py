"""Writes wherever it can write; it stops by itself where nobody stops it."""

import os
import tempfile

from attack_kit import is_worker, ran, won

MIB = 1024 * 1024
MUCH = 1024 * MIB


def fill(folder):
    written = 0
    for number in range(64):
        try:
            with open(f"{folder}/filler{number}", "wb") as file:
                for _ in range(48):
                    file.write(bytes(MIB))
                    file.flush()
                    written += MIB
        except OSError:
            break
        if written >= MUCH:
            won(f"{written // MIB} MiB in {folder}")
            break
    for number in range(64):
        if os.path.exists(f"{folder}/filler{number}"):
            os.unlink(f"{folder}/filler{number}")


ran()
if is_worker():
    for place in (".", tempfile.gettempdir(), "/dev/shm"):
        fill(place)
