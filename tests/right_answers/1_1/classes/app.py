"""Class-based tasks, settings in a module of their own, a script that asks for workers first."""

import logging
import time

import settings
from celery import Celery, Task
from kombu.exceptions import OperationalError

app = Celery("app")
app.config_from_object(settings)


class HelloWorld(Task):
    """Greets."""

    name = "app.hello_world"

    def run(self):
        """Return the greeting."""
        return settings.GREETING


class SlowHello(Task):
    """Greets late."""

    name = "app.slow_hello"

    def run(self, seconds):
        """Return the greeting when its time has come."""
        until = time.monotonic() + float(seconds)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return settings.GREETING


hello_world = app.register_task(HelloWorld())
slow_hello = app.register_task(SlowHello())


def main():
    """Look for a worker, then send."""
    try:
        with app.connection() as connection:
            connection.ensure_connection(max_retries=0)
            if not app.control.ping(timeout=1.0, connection=connection):
                print("没有 worker 应答")
                return 3
    except OperationalError as error:
        logging.error("无法连接消息代理: %s", error)
        return 2
    result = hello_world.s().apply_async()
    answer = result.get(timeout=10)
    print("结果:", answer)
    print("状态:", result.status)
    print("任务编号:", result.task_id)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
