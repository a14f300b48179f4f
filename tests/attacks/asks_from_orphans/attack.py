"""Each request is made by a process whose parent is gone: no child of the pool waits for it."""

import os
import pickle

from attack_kit import is_worker, ran

ran()


def orphaned(request):
    def ask(*args, **kwargs):
        reading, writing = os.pipe()
        if first := os.fork():
            os.close(writing)
            os.waitpid(first, 0)
            with os.fdopen(reading, "rb") as answers:
                answer, error = pickle.load(answers)
            if error:
                raise error
            return answer
        os.setsid()
        if os.fork():
            os._exit(0)
        try:
            said = request(*args, **kwargs), None
        except Exception as error:
            said = None, error
        with os.fdopen(writing, "wb") as answers:
            pickle.dump(said, answers)
        os._exit(0)

    return ask


if is_worker():
    import requests

    requests.Session.request = orphaned(requests.Session.request)
