"""The health check."""

import os
import time

import psutil
import redis

from . import app
from .jobs import database

LEVELS = ["healthy", "warning", "critical"]


def query():
    """Ask the database."""
    start = time.monotonic()
    with database() as db:
        db.execute("SELECT 1 FROM users LIMIT 1").fetchall()
    return 0, {"seconds": time.monotonic() - start}


def ping():
    """Ask Redis."""
    client = redis.from_url(os.environ["LAB_REDIS_URL"], socket_connect_timeout=1)
    return 0, {"info": bool(client.ping())}


def broker():
    """Ask the broker."""
    with app.broker_connection() as connection:
        connection.connect()
    return 0, {}


def share(percent, *limits):
    """Judge a percentage."""
    return sum(percent >= limit for limit in limits), {"percent": percent}


CHECKS = {
    "database": query,
    "redis": ping,
    "broker": broker,
    "disk": lambda: share(psutil.disk_usage(os.environ["LAB_REPORT_DIR"]).percent, 80, 90),
    "cpu": lambda: share(psutil.cpu_percent(interval=0.05), 90),
    "memory": lambda: share(psutil.virtual_memory().percent, 80, 90),
}


@app.task(name="scheduled_tasks.system_health_check")
def check_everything(**_):
    checks, worst = {}, 0
    for name, look in CHECKS.items():
        try:
            level, readings = look()
        except Exception as error:
            level, readings = 2, {"error": str(error) or type(error).__name__}
        checks[name] = {"status": LEVELS[level], **readings}
        worst = max(worst, level)
    advice = [f"look at {name}" for name, row in checks.items() if row["status"] != LEVELS[0]]
    return {"overall_status": LEVELS[worst], "checks": checks, "recommendations": advice}
