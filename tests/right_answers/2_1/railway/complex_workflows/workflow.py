"""The workflow and its progress."""

import celery
from celery.result import AsyncResult

from .app import app


def task(name, *args):
    """Return the signature of a stage."""
    return app.tasks[f"complex_workflows.{name}"].s(*args)


def create_data_pipeline(sources):
    """Return the workflow: with the | operator a group before a task becomes a chord."""
    if len({source["name"] for source in sources}) != len(sources) or not sources:
        raise ValueError("there must be sources, and no two of one name")
    if odd := [s["type"] for s in sources if s["type"] not in ("api", "database", "file")]:
        raise ValueError(f"unknown: {odd}")
    lanes = [
        task("extract_data", s) | task("validate_data") | task("transform_data") for s in sources
    ]
    join = task("aggregate_results") | task("load_data") | task("send_notification")
    return celery.chord(lanes, join)


def run_pipeline(sources):
    """Start it. The group of the lanes is saved: the progress counts the lanes and the end."""
    result = create_data_pipeline(sources).apply_async()
    result.parent.save()
    app.backend.set(f"lanes-of-{result.id}", result.parent.id)
    return result.id


def workflow_progress(id):
    """Count the lanes that have ended, and the end."""
    group_id = app.backend.get(f"lanes-of-{id}")
    if group_id is None:
        raise ValueError(f"{id} is unknown")
    end = AsyncResult(id, app=app)
    state = end.state
    lanes = celery.result.GroupResult.restore(group_id.decode(), app=app)
    total = len(lanes) + 1
    done = total if state == "SUCCESS" else lanes.completed_count()
    return {
        "state": state,
        "total": total,
        "completed": done,
        "failed": int(state == "FAILURE"),
        "percent": round(100 * done / total, 1),
    }
