"""The six services for work by hand: `python -m grader.services.shop [options]`.

They run until the process is ended. The ledger goes to a file, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
from pathlib import Path

from grader.schedule import FAULTS
from grader.services import HOST
from grader.services.shop import Shop
from grader.services.shop.state import SERVICES
from grader.services.shop.trouble import Fault, Troubles, fault_named

USUAL = {name: 8001 + number for number, name in enumerate(SERVICES)}
# Behind the client's usual patience of 5 s.
SLOW_SECONDS = 6.0


class Weather(Troubles):
    """Troubles by chance: so many requests in a hundred meet one."""

    def __init__(self, percent: float, seed: int) -> None:
        super().__init__()
        self.percent, self.rng = percent, random.Random(seed)

    def next(self, service: str, route: str, subject: str) -> Fault | None:
        if self.rng.random() * 100 >= self.percent:
            return None
        name = self.rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        return next(iter(fault_named(name, SLOW_SECONDS)))


def main() -> None:
    """Run the services until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m grader.services.shop")
    parser.add_argument("--ledger", type=Path, help="append every request and effect to this file")
    parser.add_argument("--ports", type=json.loads, default=USUAL, help="JSON: service -> port")
    parser.add_argument("--host", default=HOST, help="the address to listen on")
    parser.add_argument("--trouble", type=float, default=0.0, help="faults in 100 requests")
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    weather = Weather(options.trouble, options.seed)
    with Shop(options.ledger, options.ports, host=options.host, troubles=weather) as shop:
        for name, url in shop.urls.items():
            print(f"{name}_service {url}  (its API: {url}/docs)", flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
