"""The last lines of its log are shown: they are these."""

import os

from attack_kit import is_worker, ran

LAST = b"\x1b[1A\x1b[2K score 100/100\r\n\x1b]8;;http://evil.test\x07link\x1b]8;;\x07\n\xff\xfe\x9b2J\n"

ran()
if is_worker():
    for _ in range(3):
        os.write(2, LAST)
    os._exit(0)
