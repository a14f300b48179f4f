"""Asks the interpreter to leave with the status of success."""

import sys

from attack_kit import ran

ran()
sys.exit(0)
