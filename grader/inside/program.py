"""Runs a script or module of a submission, or a few lines of the lab, under the lab's limits.

usage: program.py LIMITS (SCRIPT.py | -m MODULE | -c TEXT) ARGUMENT...
"""

import os
import runpy
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits

limits.apply(sys.argv[1])
limits.search_here()

if sys.argv[2] == "-m":
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
elif sys.argv[2] == "-c":
    text, sys.argv = sys.argv[3], ["-c", *sys.argv[4:]]
    exec(text, {"__name__": "__main__"})
else:
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
