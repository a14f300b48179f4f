"""Waits for ever while it is imported."""

import threading

from attack_kit import ran

ran()
threading.Event().wait()
