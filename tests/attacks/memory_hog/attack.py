"""Touches every page that it can get."""

from attack_kit import is_worker, ran, won

MIB = 1024 * 1024

ran()
if not is_worker():
    kept = []
    try:
        for _ in range(40):
            kept.append(bytearray(256 * MIB))
        won("it got 10 GiB")
    except MemoryError:
        kept.clear()
        ran("refused")
