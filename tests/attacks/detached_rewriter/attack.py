"""A daemon: another session, no parent, no environment, no sign of where it came from."""

import os
import threading

from attack_kit import FACTS, ran, read


def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.environ.clear()
    ran("as a daemon")
    waited = threading.Event()
    for _ in range(60):
        waited.wait(1)
        for name in (FACTS["canary"], "results.json", "/tmp/results.json"):
            try:
                with open(name, "w") as file:
                    file.write('{"score": 100}')
            except OSError:
                pass


if not read("/tmp/daemon"):
    with open("/tmp/daemon", "w") as file:
        file.write("here")
    if os.fork() == 0:
        daemon()
