"""Exercise 2.1: a data pipeline as a Celery workflow.

README.md says what each stage takes and returns, and what has to happen when something fails.
Replace every `raise NotImplementedError`; the names of tasks and functions stay as they are. Start
a worker with `celery -A complex_workflows worker -l INFO` and grade with `pytest exercises/2_1`.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Signature

# The URLs are for a machine of your own. CELERY_BROKER_URL and CELERY_RESULT_BACKEND in the
# environment, if they are set, come first: that is how the grader brings its own servers.
app = Celery(
    "complex_workflows",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)

# TODO: what makes a task come back when the process that runs it is killed?

TARGET_DB = os.environ.get("LAB_TARGET_DB", "/tmp/complex_workflows.db")
NOTIFY_URL = os.environ.get("LAB_NOTIFY_URL", "http://127.0.0.1:8099/jobs/outcome")


@app.task
def extract_data(source):
    """Read every record of a source: {"name", "type", "location"}."""
    # TODO: three types of source. Which ways to fail does each of them have?
    raise NotImplementedError("extract_data")


@app.task
def validate_data(extraction):
    """Drop and count the invalid records."""
    # TODO: decide once, here, what an id is and what a number is.
    raise NotImplementedError("validate_data")


@app.task
def transform_data(validation):
    """Give each record its final form: {"source", "id", "value", "cents"}."""
    # TODO: how many cents are 1.015?
    raise NotImplementedError("transform_data")


@app.task
def aggregate_results(transformations):
    """Join the sources: totals, counts for each source, a summary."""
    # TODO: and something by which load_data can tell this run from every other.
    raise NotImplementedError("aggregate_results")


@app.task
def load_data(aggregation):
    """Write every record of the run into the table loaded_records, all of them or none."""
    # TODO: this task may come twice with the same aggregation.
    raise NotImplementedError("load_data")


@app.task
def send_notification(load_result):
    """POST the outcome as JSON to NOTIFY_URL and return it."""
    # TODO: three tries. Once a run. And who notifies when the workflow has failed?
    raise NotImplementedError("send_notification")


def create_data_pipeline(sources: list[dict[str, str]]) -> Signature:
    """Return the whole workflow as one signature."""
    # TODO: draw it first. Which task waits for which?
    raise NotImplementedError("create_data_pipeline")


def run_pipeline(sources: list[dict[str, str]]) -> str:
    """Start the workflow; return the id under which AsyncResult sees its end."""
    # TODO
    raise NotImplementedError("run_pipeline")


def workflow_progress(id: str) -> dict[str, Any]:
    """Return {"state", "total", "completed", "failed", "percent"}, from whichever process."""
    # TODO: how can a process that did not start the workflow know its tasks?
    raise NotImplementedError("workflow_progress")


if __name__ == "__main__":
    # TODO, challenge 2: python -m complex_workflows watch ID
    raise NotImplementedError("watch")
