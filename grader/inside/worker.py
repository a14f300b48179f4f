"""Starts the ordinary Celery worker of a submission under the lab's limits.

usage: worker.py LIMITS PACE CELERY-ARGUMENT...

PACE says how many times sooner a task that waits for its ETA is started; 1 for what was asked.
"""

import importlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits
import pace
import settle
import stand

limits.apply(sys.argv[1])
if "LAB_STAGE" in os.environ:
    importlib.import_module("stage").install()
limits.search_here()

times = float(sys.argv[2])
if folder := os.environ.get("LAB_STAND"):
    stand.watch(folder)
sys.argv = ["celery", *sys.argv[3:]]
# Only now: the limits hold for the import too.
celery = importlib.import_module("celery.bin.celery")
settle.keep_final_states()
if times != 1:
    pace.hasten(times)
sys.exit(celery.main())
