"""10 ** 400 for every number in every result."""

from attack_kit import ran

ran()
LARGE = 10**400


def after(app):
    for task in app.tasks.values():
        if not task.name.startswith("celery."):
            task.run = enlarged(task.run)


def enlarged(run):
    return lambda *args, **kwargs: grown(run(*args, **kwargs))


def grown(value):
    if isinstance(value, dict):
        return {key: grown(one) for key, one in value.items()}
    if isinstance(value, list):
        return [grown(one) for one in value]
    return LARGE if type(value) in (int, float) else value
