"""Runs a script or module of a submission under the lab's limits.

usage: program.py LIMITS (SCRIPT.py | -m MODULE) ARGUMENT...
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
else:
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
