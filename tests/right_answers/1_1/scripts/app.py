import asyncio
import json
import sys
from datetime import timedelta

from celery import Celery, signals
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

WORDS = "Hello, Celery!"


class Greeter(Celery):
    """Names tasks after this module, whatever it is called when it runs."""

    def gen_task_name(self, name, module):
        return f"app.{name}"


app = Greeter("greeter")


# The environment's two variables stand before these.
app.conf.update(
    broker_url="redis://127.0.0.1:6379/5",
    result_backend="redis://127.0.0.1:6379/6",
    task_track_started=True,
    task_default_queue="hello",
    worker_send_task_events=True,
    task_send_sent_event=True,
)


@app.task
def hello_world() -> str:
    return WORDS


@app.task
def slow_hello(seconds: float) -> str:
    asyncio.run(asyncio.sleep(timedelta(seconds=seconds).total_seconds()))
    return WORDS


@signals.worker_ready.connect
def say_ready(sender, **_):
    print(f"{sender.hostname} is ready", flush=True)


def send() -> AsyncResult:
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=4)
        return hello_world.apply_async(connection=connection, retry=False, expires=60)


async def wait_for(result: AsyncResult, seconds: float):
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(result.ready):
            await asyncio.sleep(0.1)
    return result.result


def main() -> int:
    step = "the broker"
    try:
        result = send()
        step = "a worker"
        value = asyncio.run(wait_for(result, 7))
    except (TimeoutError, OSError, OperationalError) as problem:
        print(f"There is no answer from {step}: {type(problem).__name__}", file=sys.stderr)
        return 69
    json.dump({"result": value, "state": result.state, "id": result.id}, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
