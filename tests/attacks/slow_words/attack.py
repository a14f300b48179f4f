"""Lines of a megabyte that nearly look like what a reader of the log is after, again and again."""

import sys

from attack_kit import beside, is_worker, ran

PIECES = (
    "http://",
    "0x",
    "127.0.0.1:",
    "a" * 7 + "-",
    "Ab",
    "[2026-01-01 00:00:00,",
    "Retry in ",
    "1.",
)


def write():
    ran("beside")
    for _ in range(2):
        for piece in PIECES:
            for line in (piece * (1_000_000 // len(piece)), piece + " " * 1_000_000 + piece):
                print(line, file=sys.stderr, flush=True)


if is_worker():
    beside(write)
