"""Folders in the place of databases, of what lies beside them, and of what the lab makes there."""

import os

from attack_kit import ran, tried

ran()
for name in ("LAB_TARGET_DB", "LAB_OPS_DB", "LAB_STAGE", "LAB_REPORT_DIR"):
    if path := os.environ.get(name):
        for ending in ("", "-shm", "-wal", "-journal"):
            tried(os.makedirs, f"{path}{ending}/x")
        tried(os.mkdir, os.path.join(os.path.dirname(path), "stand"))
