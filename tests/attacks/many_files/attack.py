"""A folder that is slow and hard to remove: many names, deep ones, closed ones, odd ones."""

import os

from attack_kit import is_worker, ran

ran()
if is_worker():
    os.makedirs("crowd")
    try:
        for number in range(20_000):
            os.close(os.open(f"crowd/{number}", os.O_CREAT | os.O_WRONLY))
        for name in (b"\xff\xfe", b"two\nlines", b"-rf", b"\x1b]0;x\x07"):
            os.close(os.open(b"crowd/" + name, os.O_CREAT | os.O_WRONLY))
    except OSError:
        ran("refused")
    home = os.getcwd()
    try:
        for _ in range(1500):
            os.mkdir("deep")
            os.chdir("deep")
        os.chmod(".", 0)
    except OSError:
        pass
    os.chdir(home)
    os.chmod("crowd", 0)
