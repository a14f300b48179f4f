"""The grader: runs a submission's Celery app as real processes and judges what happened."""

__version__ = "0.1.0"
