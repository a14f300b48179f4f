"""Starts the ordinary Celery worker of a submission under the lab's limits.

usage: worker.py LIMITS CELERY-ARGUMENT...
"""

import importlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits

limits.apply(sys.argv[1])
limits.search_here()

sys.argv = ["celery", *sys.argv[2:]]
# Only now: the limits hold for the import too.
sys.exit(importlib.import_module("celery.bin.celery").main())
