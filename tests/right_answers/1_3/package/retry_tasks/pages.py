"""The page's task."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from retry_tasks.web import Asking, Trouble, get


class FetchUrl(Asking):
    name = "retry_tasks.fetch_url"
    max_retries = 5
    floor = 0

    def run(self, url):
        self.floor = 0
        return super().run(url)

    def pause(self, number):
        return self.floor + random.random() * min(2.0 ** (number - 1), 8.0)

    def work(self, url):
        status, headers, body = get(url)
        if status == 429 or status // 100 == 5:
            self.floor = seconds(headers.get("Retry-After"))
            raise Trouble(f"status {status}")
        if status // 100 == 4:
            raise LookupError(f"status {status}")
        return {"status_code": status, "content_length": len(body), "url": url}


def seconds(text):
    try:
        return max(0, int(text))
    except (TypeError, ValueError):
        pass
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0
