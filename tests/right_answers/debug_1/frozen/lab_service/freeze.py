"""`python -m memory_debug freeze N`."""

import argparse
import gc
import json
import os
import signal
import sys

import psutil


def spawn():
    """Fork a child that collects, stops itself, and dies with its parent's word."""
    pid = os.fork()
    if not pid:
        gc.collect()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    return pid


def command():
    """The command."""
    parser = argparse.ArgumentParser(prog="memory_debug")
    parser.add_subparsers(required=True).add_parser("freeze").add_argument("objects", type=int)
    number = parser.parse_args().objects
    gc.disable()
    things = {n: {"number": n, "parts": [n]} for n in range(number)}
    children = [spawn()]
    gc.freeze()
    children.append(spawn())
    plain, frozen = (psutil.Process(pid).memory_full_info().uss // 1024 for pid in children)
    try:
        print(
            json.dumps({"objects": len(things), "plain_kb": plain, "frozen_kb": frozen}), flush=True
        )
        for _ in sys.stdin:
            break
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
