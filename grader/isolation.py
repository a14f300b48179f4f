"""What is enforced on this machine and what is not: for `lab doctor`, results, --strict."""

from __future__ import annotations

import os

from grader import cgroup
from grader.cell import DISK_BYTES
from grader.errors import LabFault
from grader.sandbox import MOST_PROCESSES, Sandbox, refuses_calls
from grader.words import LANGUAGES, Text

MIB = 1024 * 1024
# Without these a stranger's work can harm the machine, or see what it must not see.
WEIGHTY = ("network", "files", "disk", "processes")


def gaps(box: Sandbox) -> tuple[str, ...]:
    """Return what is not enforced: network, files, disk, processes, memory, calls."""
    open_ = [] if box.kind == "bubblewrap" else ["network", "files", "disk"]
    held = cgroup.controllers()
    # The kernel counts the processes of a user namespace, but never those of root.
    counted = box.kind == "bubblewrap" and hasattr(os, "getuid") and os.getuid() != 0
    open_ += [] if "pids" in held or counted else ["processes"]
    open_ += [] if "memory" in held else ["memory"]
    open_ += [] if refuses_calls() else ["calls"]
    return tuple(open_)


def isolated(box: Sandbox) -> bool:
    """Whether strangers' work may be graded for marks in it."""
    return not set(gaps(box)) & set(WEIGHTY)


def described(box: Sandbox) -> Text:
    """Return one line: what holds a submission, and what does not."""
    key = "isolation_whole" if not gaps(box) else f"isolation_{box.kind}"
    return Text.of(key, open=_list(gaps(box)))


def limits() -> dict[str, int]:
    """Return what bounds a lab where it is enforced: processes, MiB of memory, MiB of disk."""
    memory = cgroup.MOST_MEMORY // MIB
    return {"processes": MOST_PROCESSES, "memory": memory, "disk": DISK_BYTES // MIB}


def demand(box: Sandbox, unsafe: bool) -> None:
    """Let a grading for marks go on only where strangers' work is held.

    Raises:
        LabFault: it is not, and nobody said `--unsafe`.
    """
    if not unsafe and not isolated(box):
        open_ = tuple(gap for gap in gaps(box) if gap in WEIGHTY)
        raise LabFault("not_isolated", open=_list(open_))


def _list(names: tuple[str, ...]) -> Text:
    """Return the names of gaps as a list in each language's own way."""
    slots = [f"{{{name}}}" for name in names]
    templates = {lang: ("、" if lang == "zh" else ", ").join(slots) for lang in LANGUAGES}
    return Text(templates, {name: Text.of(f"isolation_gap_{name}") for name in names})
