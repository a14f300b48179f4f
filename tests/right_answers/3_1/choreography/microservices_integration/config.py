"""Where everything is."""

import os

TIMEOUT = float(os.environ.get("SERVICE_TIMEOUT", "5"))
NAMES = ("user", "order", "payment", "notification", "inventory", "analytics")
URLS = {
    f"{n}_service": os.environ.get(f"{n.upper()}_SERVICE_URL", f"http://127.0.0.1:{8001 + i}")
    for i, n in enumerate(NAMES)
}
BROKER = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")
BACKEND = os.environ.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1")
MEMORY = os.environ.get("LAB_REDIS_URL") or BACKEND
