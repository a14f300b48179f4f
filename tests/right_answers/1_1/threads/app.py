import sys
import time

from celery import Celery, shared_task

app = Celery("app", config_source="celeryconfig")


@shared_task(name="app.hello_world")
def hello_world():
    return "Hello, Celery!"


@shared_task(name="app.slow_hello")
def slow_hello(seconds):
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.25))
    return hello_world.run()


class Failed(Exception):
    pass


def ask():
    """Sends the task by its name and looks at its document until it is done."""
    with app.connection_for_write() as connection:
        connection.transport_options = {**connection.transport_options, "max_retries": 1}
        try:
            connection.ensure_connection(
                max_retries=1, interval_start=0, interval_step=0, timeout=5
            )
        except OSError as problem:
            raise Failed(f"cannot connect to {connection.as_uri()}: {problem}") from None
        except Exception as problem:
            raise Failed(f"cannot use {connection.as_uri()}: {problem}") from None
        # The result is polled for, so nothing needs to be subscribed to.
        result = app.send_task("app.hello_world", connection=connection, expires=30, retry=False)
    print("id:", result.id, flush=True)
    until = time.monotonic() + 8
    while time.monotonic() < until:
        meta = app.backend.get_task_meta(result.id, cache=False)
        if meta["status"] in ("SUCCESS", "FAILURE"):
            return meta
        time.sleep(0.05)
    raise Failed("nobody has taken the task for 8 seconds: is there a worker?")


def main():
    try:
        meta = ask()
    except Failed as problem:
        print("error:", " ".join(str(problem).split()), file=sys.stderr)
        return 3
    print("state:", meta["status"])
    print("result:", meta["result"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
