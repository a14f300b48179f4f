"""Shows every variable, and those of the processes around."""

import os

from attack_kit import FACTS, loot, ran, won

ran()
loot(dict(os.environ))
if FACTS["variable"] in os.environ:
    won("a variable of the grader's")
