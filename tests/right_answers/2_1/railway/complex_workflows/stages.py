"""The stages, as classes. A stage that meets a failure passes it on."""

import decimal
import json
import os
import sqlite3
import urllib.error
import urllib.request

from celery import Task

from . import sources
from .app import app


class WorkflowFailed(Exception):
    """What the caller of a failed workflow gets."""


class Stage(Task):
    """A task whose errors become a result: {"failed": "stage of source: what"}."""

    def __call__(self, value, *args, **kwargs):
        """Run the stage unless an earlier one has failed."""
        if isinstance(value, dict) and "failed" in value:
            return value
        try:
            return self.run(value, *args, **kwargs)
        except Exception as error:
            name = value.get("name") or value.get("source") if isinstance(value, dict) else ""
            what = self.name.rpartition(".")[2]
            return {"failed": f"{what} {name}: {type(error).__name__}: {error}"}


class ExtractData(Stage):
    """Reads a source."""

    name = "complex_workflows.extract_data"

    def run(self, source):
        """Return its pairs."""
        return {"source": source["name"], "pairs": sources.read(source)}


class ValidateData(Stage):
    """Sorts the invalid records out."""

    name = "complex_workflows.validate_data"

    def run(self, extraction):
        """Return the valid pairs and the number of the others."""
        good = {}
        for key, value in extraction["pairs"]:
            key = str(key).strip() if key is not None else ""
            if key and key not in good and usable(value):
                good[key] = float(value)
        return {
            "source": extraction["source"],
            "good": list(good.items()),
            "bad": len(extraction["pairs"]) - len(good),
        }


def usable(value):
    """Whether this is a finite number, or text that is one."""
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        return False
    try:
        return decimal.Decimal(str(float(value))).is_finite()
    except (ValueError, decimal.InvalidOperation):
        return False


class TransformData(Stage):
    """Gives each record its form."""

    name = "complex_workflows.transform_data"

    def run(self, validation):
        """Return the records."""
        return {
            "source": validation["source"],
            "bad": validation["bad"],
            "records": [
                {"source": validation["source"], "id": key, "value": value, "cents": cents(value)}
                for key, value in validation["good"]
            ],
        }


def cents(value):
    """Return hundredths, half of one to the even side."""
    with decimal.localcontext() as context:
        context.rounding = decimal.ROUND_HALF_EVEN
        return int((decimal.Decimal(str(value)) * 100).to_integral_value())


class AggregateResults(Task):
    """Joins what came of all sources."""

    name = "complex_workflows.aggregate_results"

    def run(self, transformations):
        """Return everything, or the failures of those that failed."""
        failures = [one["failed"] for one in transformations if "failed" in one]
        if failures:
            return {"failed": "; ".join(failures)}
        sizes = {one["source"]: len(one["records"]) for one in transformations}
        return {
            "run": self.request.id,
            "total_records": sum(sizes.values()),
            "source_count": len(sizes),
            "sources": {
                one["source"]: {"count": sizes[one["source"]], "invalid_count": one["bad"]}
                for one in transformations
            },
            "summary": {
                "average": sum(sizes.values()) / max(len(sizes), 1),
                "max": max(sizes.values(), default=0),
                "min": min(sizes.values(), default=0),
            },
            "rows": [record for one in transformations for record in one["records"]],
        }


class LoadData(Stage):
    """Writes the rows into the target."""

    name = "complex_workflows.load_data"

    def run(self, aggregation):
        """Write them, unless they are there."""
        run = aggregation["run"]
        with sqlite3.connect(os.environ["LAB_TARGET_DB"], timeout=10) as target:
            target.execute(
                "CREATE TABLE IF NOT EXISTS loaded_records "
                "(run_id TEXT, source TEXT, id TEXT, value REAL, cents INTEGER)"
            )
            known = "SELECT COUNT(*) FROM loaded_records WHERE run_id = ?"
            if not target.execute(known, (run,)).fetchone()[0]:
                for row in aggregation["rows"]:
                    target.execute(
                        "INSERT INTO loaded_records (run_id, source, id, value, cents) "
                        "VALUES (:run, :source, :id, :value, :cents)",
                        {"run": run, **row},
                    )
        target.close()
        return {"loaded": aggregation["total_records"]}


class SendNotification(Task):
    """Tells of the end, good or bad."""

    name = "complex_workflows.send_notification"
    max_retries = 2
    default_retry_delay = 1

    def run(self, load_result):
        """Post the outcome; a failed workflow fails here, after it was told."""
        failed = load_result.get("failed")
        outcome = {
            "status": "failed" if failed else "completed",
            "total_loaded": load_result.get("loaded", 0),
            "error": failed,
        }
        request = urllib.request.Request(
            os.environ["LAB_NOTIFY_URL"],
            json.dumps(outcome).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=7).close()
        except OSError as error:
            raise self.retry(exc=WorkflowFailed(f"not notified: {error}")) from error
        if failed:
            raise WorkflowFailed(failed)
        return outcome


for task in (
    ExtractData,
    ValidateData,
    TransformData,
    AggregateResults,
    LoadData,
    SendNotification,
):
    app.register_task(task())
