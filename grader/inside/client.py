"""A client process of a submission: imports the module and does what the grader asks.

usage: client.py LIMITS MODULE

One JSON object a line comes in, one goes out; the first that goes out says how the import went. The
answers leave through a descriptor of their own, so that what the submission prints can't mix in.
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits

LONGEST = 16_000_000


def main() -> None:
    """Answer requests until standard input ends."""
    limits.apply(sys.argv[1])
    limits.search_here()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    say(answers, attempt(hello, sys.argv[2]))
    for line in questions:
        request = json.loads(line)
        module = importlib.import_module(sys.argv[2])
        say(answers, attempt(globals()["do_" + request.pop("do")], module, **request))


def say(stream: Any, answer: Any) -> None:
    """Write one answer; a value that JSON has no form for is an error of the submission."""
    try:
        text = json.dumps(answer, allow_nan=True)
    except (TypeError, ValueError, RecursionError) as error:
        text = json.dumps({"error": {"type": type(error).__name__, "message": str(error)}})
    if len(text) > LONGEST:
        text = json.dumps({"error": {"type": "ValueError", "message": "the answer is too long"}})
    stream.write(text + "\n")
    stream.flush()


def attempt(function: Any, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return {"value": ...}, or {"error": ...} with the traceback's last lines."""
    try:
        return {"value": function(*args, **kwargs)}
    except BaseException as error:
        lines = traceback.format_exc(limit=-6).strip().splitlines()
        return {
            "error": {
                "type": type(error).__name__,
                "kinds": [kind.__name__ for kind in type(error).__mro__],
                "message": str(error)[:2000],
                "traceback": "\n".join(lines)[-4000:],
            }
        }


def hello(name: str) -> dict[str, Any]:
    """Import the submission and say how its app names, routes and stores things."""
    module = importlib.import_module(name)
    app = module.app
    # As a worker does: tasks may be in modules that the app includes.
    app.loader.import_default_modules()
    tasks = sorted(task for task in app.tasks if not task.startswith("celery."))
    routes = {}
    for task in [*tasks, "lab.ready"]:
        routes[task] = route(app, task)
    declare(app, {r["queue"] for r in routes.values()})
    return {"tasks": tasks, "routes": routes, "result_key": result_key(app)}


def route(app: Any, task: str) -> dict[str, str]:
    """Return the queue that this app sends the task to."""
    declared = getattr(app.tasks.get(task), "queue", None)
    options = app.amqp.router.route({"queue": declared} if declared else {}, task)
    queue = options.get("queue") or app.conf.task_default_queue
    return {"queue": getattr(queue, "name", queue)}


def declare(app: Any, names: set[str]) -> None:
    """Declare the queues as the app itself would on its first message."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in app.amqp.queues.values():
            if queue.name in names:
                with contextlib.suppress(Exception):
                    queue(channel).declare()


def result_key(app: Any) -> str:
    """Return the backend's key of a result, with {} for its id."""
    key = app.backend.get_key_for_task("{}")
    return key.decode() if isinstance(key, bytes) else key


def do_delay(module: Any, task: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call module.<task>.delay(...) and return the new task's id."""
    return str(getattr(module, task).delay(*args, **kwargs).id)


def do_call(module: Any, function: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call a plain function of the module and return what it returned."""
    return getattr(module, function)(*args, **kwargs)


def do_apply(module: Any, function: str, args: list[Any]) -> Any:
    """Call a function that returns a signature, start what it returned and return its id."""
    return str(getattr(module, function)(*args).apply_async().id)


def do_read(
    module: Any, path: str, args: list[Any], kwargs: dict[str, Any], attributes: list[str]
) -> Any:
    """Call module.<path>(...), as in "Class.method", and return the result's named attributes."""
    target = module
    for name in path.split("."):
        target = getattr(target, name)
    result = target(*args, **kwargs)
    return {name: getattr(result, name) for name in attributes}


if __name__ == "__main__":
    main()
