"""GET with the standard library."""

import gzip
import http.client
import urllib.error
import urllib.request

from celery import Task
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)


class Trouble(Exception):
    """A failure that may pass."""


def get(url):
    """Return (status, headers, body), whatever the status; Trouble without a whole answer."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
    try:
        with urllib.request.urlopen(request, timeout=8) as answer:
            return answer.status, answer.headers, unpacked(answer.headers, answer.read())
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, b""
    except (OSError, http.client.HTTPException) as error:
        raise Trouble(f"{type(error).__name__} {error}") from error


def unpacked(headers, body):
    return gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body


class Asking(Task):
    """Runs `work`, and tries again by `pause(number of the failed attempt)` on Trouble."""

    abstract = True

    def run(self, *args, **kwargs):
        try:
            return self.work(*args, **kwargs)
        except Trouble as trouble:
            number = self.request.retries + 1
            seconds = self.pause(number)
            if number > self.max_retries:
                self.over(trouble, *args, **kwargs)
                raise
            logger.info(
                "%s: try %s of %s failed (%s); waiting %.2f s",
                self.name,
                number,
                self.max_retries + 1,
                trouble,
                seconds,
            )
            raise self.retry(exc=trouble, countdown=seconds, throw=True) from trouble

    def over(self, trouble, *args, **kwargs):
        pass
