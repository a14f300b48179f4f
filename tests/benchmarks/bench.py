"""Measures the project's figures as ratios within one run: `lab bench`.

The floor is what no grader can go below: a fresh embedded Redis, one prefork worker of a tiny app,
thirty round trips, and the kill of both. Everything is a whole process, so imports count too. The
machine's speed drifts, so each figure is taken in turn with the floor (A B A B), and the median of
the ratios is printed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = str(Path(sys.executable).parent / "lab")
FLOOR = [sys.executable, str(Path(__file__).with_name("floor.py"))]
ISOLATION = [sys.executable, str(Path(__file__).with_name("isolation.py"))]
COLLECT = [sys.executable, "-m", "pytest", "exercises/1_2", "--collect-only", "-q"]


def grading_core() -> list[str]:
    """Return the command that grades the core criteria of 1_2 on Redis."""
    return [sys.executable, str(Path(__file__).with_name("core.py"))]


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; return wall seconds and its own peak memory in MiB."""
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{command} failed:\n{output.read().decode()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


def output(command: list[str]) -> str:
    """Run a command and return what it printed."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print every figure with its limit."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    pairs = [(run(FLOOR)[0], *run(grading_core())) for _ in range(runs)]
    floor = statistics.median(p[0] for p in pairs)
    ratio = statistics.median(p[1] / p[0] for p in pairs)
    print(f"floor                                {floor:.2f} s")
    print(f"1_2 core on Redis                    {ratio:.2f} x the floor (limit 2.0)")
    print(f"grader's own memory                  {max(p[2] for p in pairs):.0f} MiB (limit 120)")
    added = statistics.median(float(output(ISOLATION)) for _ in range(runs))
    print(f"isolation of one lab                 {added:+.3f} s (limit 0.15)")
    python = statistics.median(run([sys.executable, "-c", "pass"])[0] for _ in range(runs))
    for name, command in (("lab --help", [LAB, "--help"]), ("pytest --collect-only", COLLECT)):
        seconds = statistics.median(run(command)[0] for _ in range(runs))
        print(f"{name:<36} {seconds:.2f} s ({seconds / python:.0f} x an empty python)")


if __name__ == "__main__":
    main()
