"""Exercise 1.2, challenge 3: the calculator's page, `python web.py --port 8000`.

fastapi and uvicorn are installed; the standard library's http.server will do as well.
"""

from __future__ import annotations

import argparse

from calculator import app  # noqa: F401 - you will need it to publish tasks


def serve(port: int) -> None:
    """Serve the page on 127.0.0.1:`port` until Ctrl-C."""
    # TODO: GET / shows a form.
    # TODO: POST /calculations publishes a task and answers 202 with its id, at once.
    # TODO: GET /calculations/{id} says how that task stands.
    raise NotImplementedError("serve")


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="The calculator's page.")
    parser.add_argument("--port", type=int, default=8000, help="the port to listen on")
    serve(parser.parse_args().port)


if __name__ == "__main__":
    main()
