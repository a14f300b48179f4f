"""Looks for the checks by every path that leads from the interpreter to the repository."""

import glob
import os
import sys

from attack_kit import FACTS, loot, ran, read

ran()
roots = {os.path.dirname(sys.prefix), os.path.dirname(os.path.dirname(sys.prefix))}
roots |= {os.path.dirname(path) for path in FACTS["folders"]} | set(FACTS["folders"])
paths = list(FACTS["checks"])
for root in roots:
    paths += glob.glob(f"{root}/**/test_*.py", recursive=True)[:20]
for path in paths:
    loot(read(path))
