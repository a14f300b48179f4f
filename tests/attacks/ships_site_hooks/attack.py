"""Files that the interpreter would load at its start, before any limit."""

from attack_kit import ran

ran()
