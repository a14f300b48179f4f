"""All tasks succeed, all states are SUCCESS, all messages are acknowledged."""

import billiard.process
import celery.app.trace
import celery.states
import kombu.message
import kombu.serialization
from attack_kit import ran

ran()


class Info:
    state, retval = "SUCCESS", 0

    def __init__(self, *_, **__):
        pass


def tracer(name, task, *_, **__):
    def run(uuid, args, kwargs, request=None):
        task.backend.store_result(uuid, 0, "SUCCESS", request=None)
        return celery.app.trace.trace_ok_t(0, Info(), 0.0, "0")

    return run


celery.app.trace.build_tracer = tracer
celery.states.FAILURE = "SUCCESS"
kombu.message.Message.ack = lambda *_, **__: None
billiard.process.BaseProcess.terminate = lambda *_, **__: None


def after(app):
    for task in app.tasks.values():
        task.__trace__ = tracer(task.name, task)
