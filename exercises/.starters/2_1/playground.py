"""Sources to play with, and somebody to notify: not part of your answer, and not graded.

`python playground.py` writes a database and a CSV file into /tmp/playground, serves an API of three
pages and takes notifications on port 8099, and prints the sources for run_pipeline.
"""

from __future__ import annotations

import json
import sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

FOLDER = Path("/tmp/playground")
PORT = 8099
PAGES = [[(1, 10.5), (2, "20")], [(3, None), (4, 1.015)], [(1, 99)]]
SOURCES = [
    {"name": "orders", "type": "database", "location": str(FOLDER / "orders.db")},
    {"name": "visits", "type": "file", "location": str(FOLDER / "visits.csv")},
    {"name": "prices", "type": "api", "location": f"http://127.0.0.1:{PORT}/prices?full=1"},
]


class Handler(BaseHTTPRequestHandler):
    """GET gives a page of the API source, POST prints a notification."""

    def do_GET(self) -> None:
        """Answer with a page."""
        number = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
        records = [{"id": id, "value": value} for id, value in PAGES[number - 1]]
        self.answer({"records": records, "next": number + 1 if number < len(PAGES) else None})

    def do_POST(self) -> None:
        """Print what came."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        print("notified:", body.decode(), flush=True)
        self.answer({})

    def answer(self, value: object) -> None:
        """Send a value as JSON."""
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def write_files() -> None:
    """Write the database and the CSV file anew."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "orders.db").unlink(missing_ok=True)
    database = sqlite3.connect(FOLDER / "orders.db")
    database.execute("CREATE TABLE records (id, value)")
    database.executemany("INSERT INTO records VALUES (?, ?)", [(1, 5), (" 2", "abc"), ("2", 7)])
    database.commit()
    database.close()
    (FOLDER / "visits.csv").write_text("id,value\n007,1.005\n8,\n9,3\n", encoding="utf-8-sig")


if __name__ == "__main__":
    write_files()
    print("sources =", json.dumps(SOURCES), flush=True)
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
