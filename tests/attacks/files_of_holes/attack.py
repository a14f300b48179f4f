"""Thousands of reports that take no room on a disk, and gibibytes in the memory of a reader."""

import os

from attack_kit import is_worker, ran, tried

ran()


def fill():
    folder = os.environ["LAB_REPORT_DIR"]
    os.makedirs(folder, exist_ok=True)
    for number in range(2000):
        path = os.path.join(folder, f"daily-{number:05}.json")
        tried(lambda path=path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 30 * 2**20))


def after(app):
    if not is_worker():
        return
    fill()
