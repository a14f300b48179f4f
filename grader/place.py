"""Where the processes of one submission run: all of them start here, in the same surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.cell import Cell
from grader.process import Child, spawn
from grader.sandbox import environment


@dataclass
class Place:
    """A submission's surroundings.

    Attributes:
        cell: what holds its processes.
        folder: its copy: writable, the working directory.
        ledger: the file that notes each process, so that a later run can sweep it.
        module: the module that holds the object `app`.
        environment: what every process finds in its environment, the system's own apart.
    """

    cell: Cell
    folder: Path
    ledger: Path
    module: str
    environment: dict[str, str] = field(default_factory=dict)

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        extra: Mapping[str, str | None] | None = None,
        closed: Mapping[str, str] | None = None,
        **streams: Any,
    ) -> Child:
        """Start one of the programs of grader/inside.

        Args:
            program: "worker", "client" or "program".
            arguments: what follows on its command line.
            extra: variables for its environment beside the usual ones; None takes one away.
            closed: further variables, with URLs where nobody listens: nothing leads there, so that
                a connection is refused, with and without a network of the lab's own.
            streams: see `process.spawn`.
        """
        wanted = {**self.environment, **(extra or {})}
        variables = {name: value for name, value in wanted.items() if value is not None}
        self.cell.lead(variables.values())
        return spawn(
            self.cell.command(program, arguments),
            env=environment(self.folder, {**variables, **(closed or {})}),
            cwd=self.folder,
            ledger=self.ledger,
            **streams,
        )
