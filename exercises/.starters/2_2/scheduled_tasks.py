"""Exercise 2.2: jobs on a schedule, and a schedule that can be changed while beat runs.

README.md says what each job counts, when it is due, and what the data look like. Replace every
`raise NotImplementedError`; names and parameters stay as they are. Start a worker with
`celery -A scheduled_tasks worker -l INFO`, beat with `celery -A scheduled_tasks beat -l INFO`, and
grade with `pytest exercises/2_2`. You may add modules beside this one.
"""

from __future__ import annotations

from celery import Celery

# LAB_OPS_DB, LAB_REPORT_DIR and LAB_REDIS_URL in the environment say where the data are; read them
# when you need them. The broker and the result backend come from the environment too, as ever.
app = Celery(
    "scheduled_tasks",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/1",
)

# TODO: whose clock does "02:00" mean? CELERY_TIMEZONE names a zone, else it is Asia/Shanghai.

# TODO: the five entries, each with an expiry no longer than its period.
app.conf.beat_schedule = {}

# TODO: the scheduler that comes with Celery reads beat_schedule once, at its start. Which one will
# you write (or how will you extend it), so that entries can be added to the running beat?


@app.task
def cleanup_old_data(days_to_keep=30):
    """Delete what is older than `days_to_keep` days."""
    # TODO: which instants are older? And how long does somebody wait who wants to write meanwhile?
    raise NotImplementedError("cleanup_old_data")


@app.task
def generate_daily_report():
    """Report on yesterday, and write the report to a file."""
    # TODO: at which two instants does yesterday begin and end?
    raise NotImplementedError("generate_daily_report")


@app.task
def system_health_check():
    """Look at database, redis, broker, disk, cpu and memory."""
    # TODO: what becomes of the check of one component that is down?
    raise NotImplementedError("system_health_check")


@app.task
def summarize_user_activity():
    """Summarize the last full week, Monday to Sunday."""
    # TODO
    raise NotImplementedError("summarize_user_activity")


@app.task
def refresh_cache():
    """Write five caches to Redis."""
    # TODO
    raise NotImplementedError("refresh_cache")


@app.task
def schedule_custom_task(task_name, schedule_info, task_args=None):
    """Add an entry to the running beat and return its name."""
    # TODO: this runs in a worker, and beat is another process. Where do the two meet?
    raise NotImplementedError("schedule_custom_task")


@app.task
def unschedule_custom_task(name):
    """Remove an entry that schedule_custom_task added."""
    # TODO
    raise NotImplementedError("unschedule_custom_task")
